"""Logs, error messages and tracebacks never show a password.

For any password, even unescaped in a URL, no three consecutive characters of it may appear in an error, a
representation or a log line: of the URL of a broker, of the management API, of a database, of a trace collector or of a
proxy.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.sources.sql.database import database_at
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedbroker import tracing
from fedbroker.admin.api import admin_login
from fedbroker.admin.files import PublicUrl
from fedbroker.context.settings import Settings
from fedbroker.errors import FedbrokerError
from fedbroker.log import configure, get_logger
from fedbroker.text import without_secrets
from fedbroker.transport.amqp.url import parse

SECRET = "QZXJ"
"""Characters that occur in passwords only, and in no other part of a URL or of our messages."""
PASSWORDS = st.one_of(
    st.text(SECRET, min_size=3, max_size=8),
    st.text(SECRET + "/?#@:%[],;&='\"\\+é", min_size=3, max_size=12),
    st.tuples(
        st.text("0123456789", min_size=1, max_size=4), st.sampled_from("/?#@:,"), st.text(SECRET, min_size=3)
    ).map("".join),
    st.tuples(st.sampled_from("/?#@:,"), st.text(SECRET, min_size=3)).map("".join),
)
USERS = st.sampled_from(["ewr", "a.b", "u%40x", "", "me/too", "me?", "me@home"])
HOSTS = st.sampled_from(["host", "host:5671", "[::1]:99999", "a,b:1", "host:port", "", "[::1"])
TAILS = st.sampled_from(["", "/", "/vhost", "/?heartbeat=9", "?heartbeet=1", "/v?cafile=/nosuch.pem", "#f", "/a b"])


def leaked(password: str, text: str) -> list[str]:
    """Return every three consecutive characters of the password, escaped or unescaped, that the text shows."""
    grams = {word[at : at + 3] for word in (password, unquote(password)) for at in range(len(word) - 2)}
    return sorted(gram for gram in grams if set(gram) & set(SECRET) and gram in text)


def everything(call: Callable[[], object]) -> str:
    """Return all text visible in the result of a call, or in its exception."""
    try:
        value = call()
    except Exception as error:
        seen: BaseException | None = error
        said = ["".join(traceback.format_exception(error))]
        while seen is not None:
            said += [str(seen), repr(seen), repr(vars(seen))]
            seen = seen.__cause__ or seen.__context__
        return " ".join(said)
    shown = {name: getattr(value, name) for name in ("shown", "host", "user", "vhost", "base") if hasattr(value, name)}
    return f"{value!r} {value} {shown}"


def silo_settings(directory: Path, url: str) -> object:
    path = directory / "silo.toml"
    path.write_text(f'[silo]\nname = "ewr"\ncohort = "airports"\nbroker = {json.dumps(url)}\n', encoding="utf-8")
    silo = load(path, {}).silo
    return silo, silo.shown_broker


EXAMPLES = [
    ("ewr", "/QZX", "host", ""),
    ("ewr", "?QZX", "host", "/"),
    ("ewr", "12/QZX7", "host", "/"),
    ("ewr", "12?QZX7", "host", "/"),
    ("ewr", "#QZX7", "host", "/"),
    ("", "12?heartbeat=QZX7", "host", ""),
]


def with_examples(test):
    for one in EXAMPLES:
        test = example(*one)(test)
    # The first use of SQLAlchemy is slow, and so is a loaded machine.
    return settings(suppress_health_check=[HealthCheck.function_scoped_fixture])(test)


@with_examples
@given(USERS, PASSWORDS, HOSTS, TAILS)
def test_no_part_of_a_broker_password_is_shown(tmp_path, user, password, host, tail):
    for scheme in ("amqp://", "amqps://", "http://", "amqp:", "amqp:/", ""):
        url = f"{scheme}{user}:{password}@{host}{tail}"
        for call in (
            lambda url=url: parse(url),
            lambda url=url: Settings(url=url, cohort="airports", min_silos=1),
            lambda url=url: silo_settings(tmp_path, url),
            lambda url=url: PublicUrl.parse(url),
        ):
            assert leaked(password, everything(call)) == [], url


@with_examples
@given(USERS, PASSWORDS, HOSTS, TAILS)
def test_no_part_of_the_management_api_password_is_shown(user, password, host, tail):
    for scheme in ("https://", "http:/", "amqp://"):
        url = f"{scheme}{user}:{password}@{host}{tail}"
        assert leaked(password, everything(lambda url=url: admin_login(None, {"FEDBROKER_ADMIN_URL": url}))) == []
        environ = {"FEDBROKER_ADMIN_URL": "https://root:pw@broker.example"}
        assert leaked(password, everything(lambda url=url, environ=environ: admin_login(url, environ))) == []


@with_examples
@given(USERS, PASSWORDS, HOSTS, TAILS)
def test_no_part_of_a_database_password_is_shown(tmp_path, user, password, host, tail):
    url = f"postgresql://{user}:{password}@{host}{tail}"
    assert leaked(password, everything(lambda: database_at("flights", url, tmp_path))) == []
    database = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGCONNECT_TIMEOUT", "2")
        try:
            database = database_at("flights", url, tmp_path)
        except FedbrokerError:
            return
    # The driver may quote host, port, user or database: these hold no part of the password.
    parts = database.engine.url
    said = f"{parts.host} {parts.port} {parts.username} {parts.database} {dict(parts.query)}"
    assert leaked(password, said) == []


@given(st.sampled_from(["ewr", "a.b", ""]), PASSWORDS, st.sampled_from(["host", "host:5671/", "host/v?heartbeat=9"]))
def test_no_part_of_a_password_in_third_party_messages_is_logged(user, password, host):
    url = f"amqp://{user}:{password}@{host}"
    for words in (
        f"cannot reach {url}",
        f"{url}: refused",
        repr(url),
        repr([url, "x"]),
        json.dumps({"a": url, "b": 1}),
    ):
        said = without_secrets(words)
        assert leaked(password, said) == []
        assert words.startswith(said.split("://")[0])


@given(st.sampled_from(["ewr", "a.b", ""]), PASSWORDS)
def test_no_part_of_a_url_given_as_a_file_name_is_shown(user, password):
    url = f"amqp://{user}:{password}@host"
    for shown in (url, str(Path(url)), str(Path(url).resolve())):
        assert leaked(password, without_secrets(f"FEDBROKER_URL_FILE: there is no file {shown}; correct it")) == []


@given(st.lists(st.sampled_from(["amqp://me:pw@h/", "a@b", "http://x:1/", "://", ":/", "@", '"', "\\", "é"])))
def test_redacted_json_is_still_json(values):
    assert isinstance(json.loads(without_secrets(json.dumps({"a": values, "b": {"c": values}}))), dict)


def test_redacting_takes_linear_time():
    text = "a://b:" * 200_000 + " @"
    assert without_secrets(text) == text  # a backtracking pattern would take days


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure("json", "debug")
    yield lambda: capsys.readouterr().err
    root.handlers, root.level = before, level


def test_a_url_that_is_logged_shows_no_password(lines):
    get_logger("fedbroker.x").warning("trying", url="amqp://ewr:/QZX7@host/", all=["amqp://ewr:12?QZX@host/"])
    logging.getLogger("other").warning("trying %s", "amqp://ewr:/QZX7@host/")
    text = lines()
    assert text.count("trying") == 2
    assert leaked("/QZX7", text) == leaked("12?QZX", text) == []


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "HTTPS_PROXY", "http_proxy"]
)
@pytest.mark.parametrize("password", ["/QZX7", "12/QZX7", "12?QZX7", "#QZX7"])
def test_a_collector_or_proxy_with_a_stray_at_is_refused_without_a_part_of_it(lines, monkeypatch, variable, password):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(variable, f"http://ewr:{password}@127.0.0.1:9")
    tracing.start.__wrapped__("test")
    text = lines()
    assert "trace_export_failed" in text
    assert variable in text
    assert leaked(password, text) == []
