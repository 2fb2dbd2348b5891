"""Options and output shared by the commands that talk to a broker."""

from __future__ import annotations

import json as json_lib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import cyclopts

from fedbroker.credentials import url_from_file
from fedbroker.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

__all__ = [
    "ADMIN_DIRECTORY",
    "AdminDirectory",
    "Cohort",
    "Json",
    "Seconds",
    "Url",
    "age_text",
    "console",
    "print_json",
    "table",
]


def _url(_: object, tokens: Sequence[cyclopts.Token]) -> str:
    """Return the URL as given, or the text of the file that the environment names."""
    token = tokens[0]
    return url_from_file(token.keyword) if token.keyword == "FEDBROKER_URL_FILE" else token.value


Url: TypeAlias = Annotated[
    str,
    cyclopts.Parameter(
        env_var=("FEDBROKER_URL", "FEDBROKER_URL_FILE"),
        converter=_url,
        help="The broker's URL. It holds a password: prefer the environment, or a file that FEDBROKER_URL_FILE names.",
    ),
]
Cohort: TypeAlias = Annotated[str, cyclopts.Parameter(help="The cohort's name.")]
AdminDirectory: TypeAlias = Annotated[
    Path, cyclopts.Parameter(help="The administrator's directory, for secrets and settings.")
]
Json: TypeAlias = Annotated[bool, cyclopts.Parameter(negative="", help="Print JSON.")]
Seconds: TypeAlias = Annotated[float, cyclopts.Parameter(validator=cyclopts.validators.Number(gt=0, lte=86_400))]

ADMIN_DIRECTORY: Final = Path("fedbroker-admin")

_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def print_json(value: object) -> None:
    """Print one line of JSON; values that JSON lacks (times) as text."""
    print(without_secrets(json_lib.dumps(value, default=str)), flush=True)


def console() -> Console:
    """Return a console on standard output, with colours on a terminal only and without markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table. Long cells are folded, not cut."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return made


def age_text(seconds: float | None) -> str:
    """Return a span of time in its largest unit; a dash for None."""
    if seconds is None:
        return "-"
    return next((f"{seconds / unit:.0f} {name}" for unit, name in _UNITS if seconds >= unit), f"{seconds:.0f} s")
