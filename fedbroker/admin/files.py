"""Files that enrolment writes: the administrator's directory, broker URLs with logins, and complete ``silo.toml``.

The layout of the administrator's directory, which only its owner may read:

    admin.toml                            virtual host, the broker's public URL, the lifetime of rosters
    administrator.key                     signs rosters: see fedbroker.admin.rosters
    authority/ca.pem, ca.key              signs silos' certificates
    boards/NAME/broker.url                with its password
    coordinators/NAME/broker.url          with its password
    coordinators/NAME/secret.key
    coordinators/NAME/COHORT.keys.toml    its silos' public keys
    rosters/COHORT.roster
    silos/COHORT/SILO/silo.toml           with its password, or next to its certificate
    silos/COHORT/SILO/secret.key
    silos/COHORT/SILO/COHORT.roster
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from fedbroker.credentials import write_private
from fedbroker.errors import ConfigError, UsageError
from fedbroker.transport.amqp.url import parse
from fedbroker.trust import Identity, Public
from fedbroker.trust.keyring import SECRET, keys_table

__all__ = [
    "KEYS",
    "SETTINGS",
    "Folder",
    "PublicUrl",
    "read_text",
    "roster_lines",
    "roster_name",
    "settings",
    "with_broker",
    "write_secret",
]

SETTINGS: Final = "silo.toml"
KEYS: Final = "keys.toml"
_HINT_FORCE: Final = "give --force to replace it, or another --out"
_URL: Final = re.compile(r"(?P<scheme>amqps?)://(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]+)/?(?:\?(?P<query>[^#]*))?")
_BROKER: Final = re.compile(r"^broker[ \t]*=.*$", flags=re.MULTILINE)

_DATA: Final = """
# The data sources of this silo, one table each:
#
# [data.flights]
# source = "duckdb"
# query = "select dep_delay from 'flights.csv'"

# The computations that this silo permits: sums, counts, minima and maxima over clients may leave it; values of single
# clients may not.
[policy]
client_results = "refuse"
aggregates = "recognised"
# Records each request and each value that leaves: `fedbroker-silo audit` shows it.
audit_file = "audit.log"
"""


class Folder:
    """The administrator's directory.

    Args:
        root: its path; created with its first file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def authority(self) -> Path:
        """Directory of the certificate authority."""
        return self.root / "authority"

    def silo(self, cohort: str, silo: str) -> Path:
        """Return the directory of a silo's files."""
        return self.root / "silos" / cohort / silo

    def board(self, name: str) -> Path:
        """Return the directory of one board's files."""
        return self.root / "boards" / name

    def coordinator(self, name: str) -> Path:
        """Return the directory of a coordinator's files."""
        return self.root / "coordinators" / name

    def remember(self, **settings: str) -> None:
        """Save settings for the next command; those that were saved before and are not given stay."""
        lines = "".join(_toml_line(name, value) for name, value in {**self.remembered, **settings}.items())
        write_secret(self.root / "admin.toml", lines, force=True)

    @property
    def remembered(self) -> Mapping[str, str]:
        """Settings that :meth:`remember` saved.

        Raises:
            ConfigError: the file cannot be read.
        """
        file = self.root / "admin.toml"
        return {name: str(value) for name, value in _toml(file).items()} if file.exists() else {}

    def coordinators(self) -> dict[str, Public]:
        """Return the public keys of all coordinators, by name.

        Raises:
            ConfigError: a secret cannot be read.
        """
        files = sorted((self.root / "coordinators").glob(f"*/{SECRET}"))
        return {file.parent.name: Identity.parse(read_text(file)).public for file in files}

    def identity(self, directory: Path, *, force: bool) -> Identity:
        """Make a new key pair; write its secret into a directory.

        Raises:
            ConfigError: the directory has a secret already, and ``force`` is not set.
        """
        made = Identity.generate()
        write_secret(directory / SECRET, f"{made.reveal()}\n", force=force)
        return made

    def collect(self, cohort: str, silo: str, public: Public | None) -> list[Path]:
        """Write a silo's public key into each coordinator's file of keys; None removes it.

        Returns:
            The coordinators' files of keys for that cohort.

        Raises:
            ConfigError: a file cannot be read.
        """
        files = [self.coordinator(name) / f"{cohort}.{KEYS}" for name in self.coordinators()]
        for file in files:
            keys = _toml(file) if file.exists() else {}
            silos = dict(keys.get("silos", {}))
            if public is None:
                silos.pop(silo, None)
            else:
                silos[silo] = str(public)
            write_secret(file, keys_table(silos, seal=keys.get("seal") is not False), force=True)
        return files


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
            raise UsageError("the broker's URL holds a login", hint="omit user and password: each silo gets its own")
        if found is None:
            raise ConfigError(
                "this is not a broker's public URL", hint="write it like amqps://broker.example/?cafile=ca.pem"
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
        all_options = {**self.options, **options}
        query = f"?{urlencode(all_options, safe='/')}" if all_options else ""
        path = "" if vhost == "/" else quote(vhost, safe="")
        return f"{self.scheme}://{login}@{self.hosts}/{path}{query}"


def settings(
    silo: str, cohort: str, broker: str, coordinators: Iterable[Public], roster_key: Public | None = None
) -> str:
    """Return a silo's ``silo.toml``, complete except for its data sources.

    Args:
        silo: its name.
        cohort: its cohort.
        broker: the broker's URL with its login.
        coordinators: the public keys of its coordinators.
        roster_key: the public key that signs the cohort's roster; None to pin none.
    """
    return (
        "[silo]\n"
        f"{_toml_line('name', silo)}{_toml_line('cohort', cohort)}{_broker_line(broker)}\n"
        "enrolled = true\n"
        f"\n{_security(coordinators, roster_lines(cohort, roster_key))}{_DATA}"
    )


def roster_lines(cohort: str, key: Public | None) -> str:
    """Return the lines of ``[security]`` by which a silo believes a roster; empty without a key."""
    if key is None:
        return ""
    return f"{_toml_line('roster_key', str(key))}{_toml_line('roster', roster_name(cohort))}"


def roster_name(cohort: str) -> str:
    """Return the name of a cohort's roster file."""
    return f"{cohort}.roster"


def with_broker(text: str, broker: str) -> str:
    """Return a ``silo.toml`` with another login.

    Raises:
        ConfigError: it has no line ``broker = …``.
    """
    replaced, found = _BROKER.subn(lambda _: _broker_line(broker), text, count=1)
    if not found:
        raise ConfigError("silo.toml has no line `broker = …`", hint="give --force to make a new file")
    return replaced


def _security(coordinators: Iterable[Public], roster: str) -> str:
    publics = [f'    "{public}",' for public in coordinators]
    if not publics:
        return (
            "# No coordinator was known: every user with write permission at the broker may send work (docs/keys.md).\n"
        )
    lines = [
        "[security]",
        'secret_file = "secret.key"',
        "coordinators = [",
        *publics,
        "]",
        "# No work is taken that the broker's operator could read.",
        "seal = true",
    ]
    if roster:
        lines += [
            "# The silos with which this one may form masked sums, signed by the cohort's administrator.",
            roster.rstrip(),
        ]
    return "\n".join([*lines, ""])


def _broker_line(broker: str) -> str:
    """Return the line with the login, which `fedbroker-silo install` moves to a file of its own."""
    return f"{_toml_line('broker', broker).rstrip()}  # a secret: this file is for the silo's user alone"


def _toml_line(name: str, value: str) -> str:
    """Return ``name = "value"`` as a line; names of silos are bare keys in TOML."""
    return f"{name} = {json.dumps(value)}\n"


def write_secret(path: Path, text: str, *, force: bool) -> None:
    """Write a file that only its owner may read; see :func:`fedbroker.credentials.write_private`.

    Raises:
        ConfigError: it exists and is not to be replaced, or cannot be written.
    """
    if not force and path.exists():
        raise ConfigError(f"{path} exists already", hint=_HINT_FORCE)
    write_private(path, text)


def read_text(path: Path) -> str:
    """Return the text of one of our files, stripped.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read", hint="correct --out, or replace the file with --force") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="correct that line") from None
