"""mkdocs' hooks that make a site of docs/, and an extension for the docstrings that mkdocstrings renders.

On the site, as on GitHub, a link to a file outside of docs/ leads to it: a copy of it goes into the site. A link to a
directory becomes its name. Docstrings' roles (``:func:`data` ``) become links, and functions that take the arguments of
others (``@_takes(_settings)``) show those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(?P<name>[\w.]+)`")
TAKES = re.compile(r"_takes\((?P<name>\w+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ that pages link to."""
    for path in sorted(set(_linked(files))):
        source = _root(config) / path
        if source.is_file():
            files.append(File.generated(config, _copy(path), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """Have links to files outside of docs/ lead to the copies."""

    def inside(link: re.Match[str]) -> str:
        if (_root(config) / link["path"]).is_dir():
            return link["text"] if link["text"].strip("`/") == link["path"] else f"{link['text']} (`{link['path']}`)"
        return f"[{link['text']}]({_copy(link['path'])})"

    return OUTSIDE.sub(inside, markdown)


def _linked(files: Files) -> Iterator[str]:
    for page in files.documentation_pages():
        for link in OUTSIDE.finditer(page.content_string):
            yield link["path"]


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _copy(path: str) -> str:
    # A page of Markdown would have to be one of the site's: what it links to is not there.
    return f"files/{path}.txt" if path.endswith(".md") else f"files/{path}"


class Docstrings(griffe.Extension):
    """Adapts our docstrings to mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Roles become links."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"[`\g<name>`][\g<name>]", obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **_: object) -> None:
        """Functions that take the arguments of others get those, and what is said of them."""
        for function in mod.functions.values():
            for decorator in function.decorators:
                takes = TAKES.fullmatch(str(decorator.value))
                if takes is not None:
                    _take(function, mod.functions[takes["name"]])


def _take(function: griffe.Function, other: griffe.Function) -> None:
    function.parameters = other.parameters
    if function.docstring is not None and other.docstring is not None:
        function.docstring.value += f"\n\n{other.docstring.value}"
