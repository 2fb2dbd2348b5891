"""Files for a silo or a coordinator: the broker's URL with its login, and a complete ``silo.toml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from fedbroker.admin.folder import toml_line
from fedbroker.errors import ConfigError, UsageError
from fedbroker.transport.amqp.url import parse
from fedbroker.trust import Public

__all__ = ["PublicUrl", "settings", "with_broker"]

_URL: Final = re.compile(r"(?P<scheme>amqps?)://(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]+)/?(?:\?(?P<query>[^#]*))?")
_BROKER: Final = re.compile(r"^broker[ \t]*=.*$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """A broker's URL without a login and without a virtual host, as in ``amqps://broker.example/?cafile=ca.pem``."""

    scheme: str
    hosts: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> PublicUrl:
        """Parse and check a URL.

        Raises:
            UsageError: it holds a login.
            ConfigError: it is no broker's URL, or names a virtual host.
        """
        found = _URL.fullmatch(url.strip())
        if found is not None and found["login"]:
            raise UsageError(
                "the broker's URL holds a login", hint="leave user and password out: each silo gets its own"
            )
        if found is None:
            raise ConfigError(
                "that is not a broker's public URL", hint="write it like amqps://broker.example/?cafile=ca.pem"
            )
        parse(url)  # also refuses the rest of a login behind a / or a ?
        options = dict(parse_qsl(found["query"] or ""))
        if "cafile" in options:
            options["cafile"] = str(Path(options["cafile"]).absolute())
        return cls(found["scheme"], found["hosts"], options)

    def __str__(self) -> str:
        """Return the URL as text."""
        return f"{self.scheme}://{self.hosts}/" + (f"?{urlencode(self.options, safe='/')}" if self.options else "")

    @property
    def authority(self) -> Path | None:
        """File of the authority that issued the broker's certificate; None if the system's authorities did."""
        return Path(self.options["cafile"]) if "cafile" in self.options else None

    def for_user(self, user: str, password: str | None, vhost: str, **options: str) -> str:
        """Return the URL with a login, for a virtual host; a secret if it holds a password."""
        login = quote(user, safe="") if password is None else f"{quote(user, safe='')}:{quote(password, safe='')}"
        every = {**self.options, **options}
        query = f"?{urlencode(every, safe='/')}" if every else ""
        path = "" if vhost == "/" else quote(vhost, safe="")
        return f"{self.scheme}://{login}@{self.hosts}/{path}{query}"


def settings(silo: str, cohort: str, broker: str, coordinators: Iterable[Public]) -> str:
    """Return a silo's ``silo.toml``, complete except for its data sources."""
    return (
        "# Holds the login at the broker: for this silo's user alone.\n"
        "[silo]\n"
        f"{toml_line('name', silo)}{toml_line('cohort', cohort)}{toml_line('broker', broker)}"
        "enrolled = true\n"
        f"\n{_security(coordinators)}{_DATA}"
    )


_DATA: Final = """
# What this silo offers, a table for each source:
#
# [data.flights]
# source = "duckdb"
# query = "select dep_delay from 'flights.csv'"

# What may be computed of it: sums, counts, minima and maxima over clients leave, values of single clients do not.
[policy]
client_results = "refuse"
aggregates = "recognised"
"""


def with_broker(text: str, broker: str) -> str:
    """Return a ``silo.toml`` with another login.

    Raises:
        ConfigError: it has no line ``broker = …``.
    """
    changed, found = _BROKER.subn(lambda _: toml_line("broker", broker).rstrip(), text, count=1)
    if not found:
        raise ConfigError("silo.toml has no line with the broker's URL", hint="give --force to have it made anew")
    return changed


def _security(coordinators: Iterable[Public]) -> str:
    publics = [f'    "{public}",' for public in coordinators]
    if not publics:
        return "# No coordinator was known: whoever may publish at the broker may ask. See docs/keys.md.\n"
    return "\n".join(["[security]", 'secret_file = "secret.key"', "coordinators = [", *publics, "]", ""])
