"""A silo's settings: one TOML file and environment variables that override it; checked before they are used."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from fedbroker.credentials import from_file, read_secret, with_absolute_files
from fedbroker.errors import ConfigError
from fedbroker.narrowing import is_dict
from fedbroker.runtime.resources import MIN_MEMORY
from fedbroker.text import printable
from fedbroker.transport.amqp.proxy import parse_proxy
from fedbroker.transport.amqp.url import parse, with_proxy
from fedbroker.trust import Public
from fedbroker.trust.keyring import silo_keys
from fedbroker.wire.coding import Compression
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import check_name
from fedbroker_worker.control.address import SiloAddress
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.options import nearest, read_table
from fedbroker_worker.policy.rules import PolicySettings, read_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from fedbroker.trust.keyring import Keys


__all__ = [
    "PASSWORD_IN_URL",
    "SOURCE_SECRETS",
    "AuditSettings",
    "RosterSettings",
    "SecuritySettings",
    "Settings",
    "SiloSettings",
    "SourceSettings",
    "load",
    "load_for_audit",
    "load_for_control",
]

MIB: Final = 1024 * 1024

LONGEST_SOURCE: Final = 200
"""The most characters of a data source's name, which must leave room in an error line and a table."""

SOURCE_SECRETS: Final = ("url_file", "service_account")
"""Keys of ``[data.NAME]`` that name a file with a secret."""

PASSWORD_IN_URL: Final = re.compile(r"://[^/\s\"':@]*:[^/\s\"'@]+@")
"""A URL's user and password in the text of a file of settings."""

_RUNTIME_MEMORY: Final = f"a number of bytes, at least {MIN_MEMORY}, or 0 for three quarters of the memory"
_TABLES: Final = ("silo", "data", "policy", "limits", "security")
_ROSTER: Final = "cohort.roster"
_AUDIT_FILE: Final = "FEDBROKER_POLICY_AUDIT_FILE"
_DATA_PREFIX: Final = "FEDBROKER_DATA__"
_PREFIX: Final = "FEDBROKER_SILO_"
_FILE: Final = "_file"
# Kubernetes sets these in every pod of a namespace that has a service called fedbroker-silo: they are not settings.
_SERVICE_LINK: Final = re.compile(r"(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)")


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """The table ``[security]``.

    Attributes:
        secret_file: the file with the silo's secret: a path, or the name of a systemd credential.
        coordinators: public keys of the coordinators that may send work: a list, or a table with a name for each.
        seal: accept only sealed work, and seal every reply; if False, only replies to sealed work are sealed.
        roster_key: the public key of the cohort's administrator, who signs the roster; empty: no masked sums.
        roster: the file with the cohort's roster, relative to the settings; empty for ``cohort.roster``.
    """

    secret_file: Annotated[str, Meta(description='the file with the silo\'s secret, such as "secret.key"')]
    coordinators: Annotated[
        Annotated[tuple[str, ...], Meta(min_length=1)] | Annotated[dict[str, str], Meta(min_length=1)],
        Meta(description='public keys, ["fedbroker-public-1:…"] or {name = "fedbroker-public-1:…"}; at least one'),
    ]
    seal: bool = False
    roster_key: Annotated[
        str, Meta(description='the public key of the cohort\'s administrator, "fedbroker-public-1:…"')
    ] = ""
    roster: Annotated[str, Meta(description='the file with the cohort\'s roster, such as "airports.roster"')] = ""


@dataclass(frozen=True, slots=True)
class RosterSettings:
    """The roster of masked sums.

    Attributes:
        path: its file.
        key: the public key of the cohort's administrator, which must have signed it.
    """

    path: Path
    key: Public


def _read_security(
    table: Mapping[str, object], path: Path, environ: Mapping[str, str]
) -> tuple[Keys | None, RosterSettings | None]:
    """Return the silo's keys and its roster.

    Without the table it has no keys: then no message is signed, and any publisher may send work.

    Args:
        table: the keys and values of ``[security]``.
        path: the settings file.
        environ: the environment.

    Raises:
        SettingsError: a key of the table is wrong, or the secret cannot be read or is malformed. The error never quotes
            the secret.
    """
    if not table:
        return None, None
    settings = read_table(SecuritySettings, table, label=partial(_security_label, path))
    label = _security_label(path, "secret_file")
    secret = read_secret(label, settings.secret_file, path.absolute().parent, environ, SettingsError)
    try:
        own = settings.coordinators
        keys = silo_keys(secret, tuple(own.values()) if isinstance(own, dict) else own, seal=settings.seal)
    except ConfigError as error:
        raise SettingsError(f"[security] of {path.name}: {error.what}", hint=error.hint) from None
    return keys, _roster(settings, path)


def _roster(settings: SecuritySettings, path: Path) -> RosterSettings | None:
    label = _security_label(path, "roster_key")
    if not settings.roster_key:
        if settings.roster:
            raise SettingsError(
                f"{label} is missing, so that any roster would be believed",
                hint="add the public key that `fedbroker admin roster` printed, or omit 'roster'",
            )
        return None
    try:
        key = Public.parse(settings.roster_key)
    except ConfigError as error:
        raise SettingsError(f"{label}: {error.what}", hint=error.hint) from None
    return RosterSettings(path.absolute().parent / (settings.roster or _ROSTER), key)


def _security_label(path: Path, key: str) -> str:
    return f"{key!r} in [security] of {path.name}"


@dataclass(frozen=True, slots=True)
class Override:
    """A value from the environment.

    Attributes:
        variable: the environment variable.
        value: its value, which may be a secret.
    """

    variable: str
    value: str = field(repr=False)


def overrides(environ: Mapping[str, str], keys: Collection[str]) -> dict[str, Override]:
    """Return the overridden keys: ``FEDBROKER_SILO_KEY`` holds a value, ``FEDBROKER_SILO_KEY_FILE`` names a file.

    Args:
        environ: the environment.
        keys: the valid keys; unknown keys are returned, too, for the caller to refuse.

    Raises:
        SettingsError: a key is set twice, or its file cannot be read.
    """
    found: dict[str, Override] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(_PREFIX)
        if not variable.startswith(_PREFIX) or _SERVICE_LINK.fullmatch(name):
            continue
        key = name.lower()
        inner = key.removesuffix(_FILE)
        by_file = key not in keys and inner in keys
        key = inner if by_file else key
        if key in found:
            both = " and ".join(sorted((variable, found[key].variable)))
            raise SettingsError(f"{both} are both set in the environment", hint="unset one of them")
        found[key] = Override(variable, from_file(variable, environ, SettingsError) if by_file else value)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloSettings:
    """The table ``[silo]``.

    Attributes:
        name: unique in the cohort.
        cohort: the name of the cohort that the silo joins.
        broker: the broker's URL with its password; not in the ``repr``.
        proxy: the HTTP proxy through which to reach the broker, or ``none``; empty: ``HTTPS_PROXY`` decides. Not in the
            ``repr``: it may hold a password.
        enrolled: True if the broker's operator created the queues (`fedbroker admin enroll`), so that the silo may
            create none.
        heartbeat: seconds between two announcements.
        isolation: the C++ runtime's isolation: its own network namespace, or none where the host isolates it.
        runtime_confinement: whether the C++ runtime may run where its files are not protected; ``off``: no defences.
        runtime_memory_bytes: the most that the C++ runtime may allocate; 0 for three quarters of the machine's memory.
        blob_cache_bytes: the size of the cache of models and computations for the next round.
        blob_cache_seconds: how long an unused blob is kept.
        max_work: the most work items that compute at a time; further ones wait at the broker. A silo with a roster
            takes more of them, and makes their offers to masked sums.
        max_sessions: the most sessions that may hold values here at a time; work of further sessions is refused.
        standby: wait until the silo of this name that runs elsewhere has left, then take its place.
        renew_seconds: seconds after which an unfinished work item is returned to the broker and received again; less
            than the broker's ``consumer_timeout``.
        drain_seconds: how long a stopping silo may take to complete its running work.
        compression: which results are sent compressed: none, only those of which a sample shrinks, or all.
        control: the Unix socket for `fedbroker-silo status` and its like: a path relative to the settings, or ``none``;
            empty for one in the user's runtime directory, or else next to the silo's records.
        metrics: ``HOST:PORT`` where metrics are served over HTTP, without a password; empty for none.
        log_format: ``auto`` is text for people on a terminal, JSON elsewhere.
        log_level: the lowest level that is logged.
    """

    name: Annotated[str, Meta(description='this silo\'s name, unique in its cohort, such as "ewr"')]
    cohort: Annotated[str, Meta(description='the name of the cohort to join, such as "airports"')]
    broker: Annotated[str, Meta(description="the broker's URL, amqps://user:password@broker.example/vhost")] = field(
        repr=False
    )
    proxy: Annotated[str, Meta(description='an HTTP proxy, http://user:password@proxy.example:3128, or "none"')] = (
        field(default="", repr=False)
    )
    enrolled: bool = False
    heartbeat: Annotated[float, Meta(ge=0.2, le=60, description="seconds, from 0.2 to 60")] = 5.0
    isolation: Literal["namespace", "none"] = "namespace"
    runtime_confinement: Literal["best-effort", "required", "off"] = "best-effort"
    runtime_memory_bytes: Annotated[int, Meta(ge=0, le=1 << 60, description=_RUNTIME_MEMORY)] = 0
    blob_cache_bytes: Annotated[int, Meta(ge=MIB, description="a number of bytes, at least 1048576")] = 512 * MIB
    blob_cache_seconds: Annotated[float, Meta(ge=1, le=604800, description="seconds, from 1 to 604800")] = 86400.0
    max_work: Annotated[int, Meta(ge=1, le=1024, description="a number from 1 to 1024")] = 16
    max_sessions: Annotated[int, Meta(ge=1, le=100000, description="a number from 1 to 100000")] = 256
    drain_seconds: Annotated[float, Meta(gt=0, le=86400, description="seconds, up to 86400")] = 300.0
    standby: bool = False
    renew_seconds: Annotated[float, Meta(ge=0.2, le=86400, description="seconds, from 0.2 to 86400")] = 600.0
    compression: Compression = "off"
    control: str = ""
    metrics: str = ""
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def shown_broker(self) -> str:
        """The broker's URL without its password and its options."""
        return parse(self.broker).shown


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """One table ``[data.NAME]``.

    Attributes:
        kind: the value of its key ``source``.
        options: its other keys, for the source to check; they may hold secrets, so they are not in the ``repr``.
    """

    kind: str
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a silo.

    Attributes:
        path: the file.
        silo: its table ``[silo]``.
        data: its tables ``[data.NAME]``, by name.
        limits: its table ``[limits]``.
        keys: the keys of its table ``[security]``; None without that table.
        policy: its table ``[policy]``.
        key_file: the file with the silo's secret, as ``[security]`` names it; None without that table.
        roster: the roster that ``[security]`` names; None without a ``roster_key``.
        signers: the names of the coordinators' keys by their fingerprints; a key without a name has its fingerprint.
    """

    path: Path
    silo: SiloSettings
    data: Mapping[str, SourceSettings]
    limits: Limits = DEFAULT_LIMITS
    keys: Keys | None = None
    policy: PolicySettings = field(default_factory=PolicySettings)
    key_file: str | None = None
    roster: RosterSettings | None = None
    signers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def directory(self) -> Path:
        """The file's own directory, to which relative paths are relative."""
        return self.path.parent

    @property
    def state_directory(self) -> Path:
        """The directory for records that outlive the process: that of the audit log, or else of the settings."""
        return (self.directory / (self.policy.audit_file or self.path.name)).parent

    @property
    def control_address(self) -> SiloAddress:
        """The settings from which the place of the control socket follows."""
        return SiloAddress(self.path, self.silo.cohort, self.silo.name, self.silo.control, self.state_directory)


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    ``FEDBROKER_SILO_KEY`` overrides ``key`` of ``[silo]``; ``FEDBROKER_SILO_KEY_FILE`` overrides it with the content of
    a file. ``FEDBROKER_DATA__NAME__KEY`` overrides ``key`` of ``[data.NAME]``, and adds that table if it is missing.
    ``FEDBROKER_POLICY_AUDIT_FILE`` overrides ``audit_file`` of ``[policy]``, because the environment that starts the
    silo determines where it may write. The other keys of ``[policy]`` come only from the file.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a key or value in it or in the environment is wrong.
        ConfigError: a name or the broker's URL is malformed.
    """
    document = _parse(path)
    for table in document:
        if table not in _TABLES:
            raise SettingsError(f"unknown table [{table}] in {path.name}", hint=nearest(table, _TABLES))
    data = _sources(_table(document, "data", path), path, environ)
    security = _table(document, "security", path)
    keys, roster = _read_security(security, path, environ)
    return Settings(
        path=path.absolute(),
        silo=_silo(_table(document, "silo", path), path, environ),
        data=data,
        limits=_limits(_table(document, "limits", path), path),
        keys=keys,
        policy=read_policy(_table(document, "policy", path), path.name, data, environ.get(_AUDIT_FILE)),
        key_file=security.get("secret_file"),
        roster=roster,
        signers={} if keys is None else _signers(keys, security),
    )


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The settings that reading the audit log needs: neither the broker's URL nor a secret nor a credential.

    Attributes:
        file: the audit log; None if the silo writes none.
        names: the names of coordinators by the fingerprint of their key.
    """

    file: Path | None
    names: Mapping[str, str]


def load_for_audit(path: Path, environ: Mapping[str, str] = os.environ) -> AuditSettings:
    """Read only what reading the audit log needs.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a key of ``[policy]`` is wrong.
        ConfigError: a coordinator's key is malformed.
    """
    document = _parse(path)
    policy = read_policy(
        _table(document, "policy", path), path.name, _table(document, "data", path), environ.get(_AUDIT_FILE)
    )
    file = path.absolute().parent / policy.audit_file if policy.audit_file else None
    return AuditSettings(file, _signer_names(_table(document, "security", path)))


def _signers(keys: Keys, security: Mapping[str, Any]) -> dict[str, str]:
    names = _signer_names(security)
    return {key: names.get(key, key) for key in keys.others}


def _signer_names(security: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the coordinators' keys by their fingerprints; a key in a list has none."""
    coordinators = security.get("coordinators")
    names = coordinators if is_dict(coordinators) else {}
    return {Public.parse(str(key)).fingerprint: name for name, key in names.items()}


def load_for_control(path: Path, environ: Mapping[str, str] = os.environ) -> SiloAddress:
    """Read only what finding a running silo needs: neither the broker's URL nor a secret nor a credential.

    Raises:
        SettingsError: the file cannot be read, is not TOML, or a key that is needed is missing or wrong.
        ConfigError: a name is malformed.
    """
    document, label = _parse(path), f"[silo] of {path.name}"
    table = _table(document, "silo", path)
    overridden = overrides({key: value for key, value in environ.items() if not key.endswith("_FILE")}, table)
    found: dict[str, str] = {}
    for key in ("name", "cohort", "control"):
        value = overridden[key].value if key in overridden else table.get(key, "")
        if not isinstance(value, str) or (not value and key != "control"):
            raise SettingsError(
                f"{key!r} in {label} is missing or no text", hint="correct it, or name another --config"
            )
        found[key] = value
    for kind, name in (("silo", found["name"]), ("cohort", found["cohort"])):
        _check(label, partial(check_name, kind, name))
    audit = environ.get(_AUDIT_FILE) or _table(document, "policy", path).get("audit_file") or path.name
    state = (path.absolute().parent / str(audit)).parent
    return SiloAddress(path.absolute(), found["cohort"], found["name"], found["control"], state)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist", hint="name the silo's settings with --config") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}", hint="correct --config") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    except RecursionError:
        raise SettingsError(f"{path.name} is nested too deeply", hint="use only the documented tables") from None
    except ValueError as error:  # TOML's own, and Python's for a number of thousands of digits
        raise SettingsError(f"{path.name} is not TOML: {error}", hint="correct that line") from None


def _table(document: Mapping[str, Any], name: str, path: Path, prefix: str = "") -> dict[str, Any]:
    table: object = document.get(name, {})
    if not is_dict(table):
        raise SettingsError(
            f"{prefix + name!r} in {path.name} is not a table", hint=f"write [{prefix}{name}] above its keys"
        )
    return table


def _silo(table: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> SiloSettings:
    overridden = overrides(environ, {field_.name for field_ in fields(SiloSettings)})

    def label(key: str) -> str:
        if key in overridden:
            return f"{overridden[key].variable} in the environment"
        return f"{key!r} in [silo] of {path.name}"

    values = {key: override.value for key, override in overridden.items()}
    silo = read_table(SiloSettings, {**table, **values}, lenient=overridden, label=label)
    silo = replace(silo, broker=with_absolute_files(silo.broker, path.absolute().parent))
    _check(label("name"), partial(check_name, "silo", silo.name))
    _check(label("cohort"), partial(check_name, "cohort", silo.cohort))
    _check(label("broker"), partial(parse, silo.broker))
    if silo.proxy:
        _check(label("proxy"), partial(parse_proxy, silo.proxy, "it"))
        silo = replace(silo, broker=with_proxy(silo.broker, silo.proxy))
    if 0 < silo.runtime_memory_bytes < MIN_MEMORY:
        raise SettingsError(
            f"{label('runtime_memory_bytes')}: too few for the C++ runtime and its threads",
            hint=f"it is {_RUNTIME_MEMORY}",
        )
    if silo.metrics:
        from fedbroker.metrics.exposition import parse_address

        _check(label("metrics"), partial(parse_address, silo.metrics))
    return silo


def _limits(table: Mapping[str, Any], path: Path) -> Limits:
    try:
        return read_table(Limits, table, label=lambda key: f"{key!r} in [limits] of {path.name}")
    except SettingsError:
        raise
    except ConfigError as error:
        raise SettingsError(f"[limits] of {path.name}: {error.what}", hint=error.hint) from None


def _check(label: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ConfigError as error:
        raise SettingsError(f"{label}: {error.what}", hint=error.hint) from None


def _sources(tables: Mapping[str, Any], path: Path, environ: Mapping[str, str]) -> dict[str, SourceSettings]:
    options: dict[str, dict[str, Any]] = {name: dict(_table(tables, name, path, "data.")) for name in tables}
    for variable, value in environ.items():
        if variable.startswith(_DATA_PREFIX):
            source, *keys = _key_path(variable)
            match = next((name for name in options if _in_variable(name) == source), source)
            _put(options.setdefault(match, {}), keys, value)
    for name in options:
        if name != printable(name, LONGEST_SOURCE):
            raise SettingsError(
                f"[data.{printable(name, LONGEST_SOURCE)}] in {path.name} is not a name that can be printed",
                hint=f"use letters, digits and spaces, {LONGEST_SOURCE} characters at most",
            )
    return {name: _source(name, table, path) for name, table in options.items()}


def _key_path(variable: str) -> list[str]:
    parts = variable.removeprefix(_DATA_PREFIX).lower().split("__")
    if len(parts) < 2 or not all(parts):
        raise SettingsError(
            f"{variable} in the environment names no key of a data source", hint=f"write {_DATA_PREFIX}NAME__KEY"
        )
    return parts


def _in_variable(name: str) -> str:
    """Return a source's name as it appears in the environment, where names have no dashes, dots or small letters."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())


def _put(table: dict[str, Any], keys: Sequence[str], value: str) -> None:
    *outer, last = keys
    for key in outer:
        inner = table.get(key)
        table[key] = dict(inner) if is_dict(inner) else {}
        table = table[key]
    table[last] = value


def _source(name: str, table: Mapping[str, Any], path: Path) -> SourceSettings:
    kind = table.get("source")
    if not isinstance(kind, str) or not kind:
        problem = "is missing" if "source" not in table else "is not a name"
        raise SettingsError(f"'source' in [data.{name}] of {path.name} {problem}", hint='add it: source = "duckdb"')
    return SourceSettings(kind, {key: value for key, value in table.items() if key != "source"})
