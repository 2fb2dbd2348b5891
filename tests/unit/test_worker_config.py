"""silo.toml and the environment: accepted settings, and one-line errors that name the place of each mistake."""

from __future__ import annotations

import dataclasses
import json
import re
import string

import pytest
from fedbroker_worker.config import SecuritySettings, Settings, SiloSettings, load
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.policy.rules import PolicySettings
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError
from fedbroker.wire import Limits

GOOD = """
[silo]
name = "ewr"
cohort = "airports"
broker = "amqp://me:secret@localhost:5672/"

[data.flights]
source = "duckdb"
query = "select 1 as x"
"""

SILO = {"name": "ewr", "cohort": "airports", "broker": "amqp://localhost/"}


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "silo.toml"
        path.write_text(text)
        return path

    return write


def refused(path, environ=None):
    """Return the one-line error of refused settings."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    line = str(caught.value)
    assert "\n" not in line
    assert "secret" not in line
    return line


def test_settings_file_is_read(write):
    settings = load(write(GOOD), {})
    assert settings.silo == SiloSettings(name="ewr", cohort="airports", broker="amqp://me:secret@localhost:5672/")
    assert settings.silo.heartbeat == 5.0
    assert settings.silo.isolation == "namespace"
    assert settings.silo.compression == "off"
    assert settings.data["flights"].kind == "duckdb"
    assert settings.data["flights"].options == {"query": "select 1 as x"}


def test_limits_are_read(write):
    assert load(write(GOOD), {}).limits == Limits()
    assert load(write(GOOD + "[limits]\nmax_blob = 1\npending_seconds = 0.5\n"), {}).limits == Limits(
        max_blob=1, pending_seconds=0.5
    )


def test_relative_paths_are_relative_to_the_file(write, tmp_path, monkeypatch):
    write(GOOD)
    monkeypatch.chdir(tmp_path.parent)
    settings = load((tmp_path / "silo.toml").relative_to(tmp_path.parent), {})
    assert settings.directory == tmp_path


def test_a_silo_may_have_no_data(write):
    assert load(write(GOOD.split("[data")[0]), {}).data == {}


def test_passwords_are_not_shown(write):
    settings = load(write(GOOD + 'password = "secret"\n'), {})
    assert "secret" not in repr(settings)
    assert "secret" not in settings.silo.shown_broker


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("name =", "nmae =", "unknown key 'nmae' in [silo] of silo.toml; did you mean 'name'?"),
        ("[silo]", "[slio]", "unknown table [slio] in silo.toml; did you mean 'silo'?"),
        (
            "[silo]",
            "[silo]\nzzz = 1",
            "unknown key 'zzz' in [silo] of silo.toml; valid are blob_cache_bytes, blob_cache_s",
        ),
        ('name = "ewr"\n', "", "'name' in [silo] of silo.toml is missing; add it: this silo's name"),
        ('"ewr"', "7", "'name' in [silo] of silo.toml: expected str, got int"),
        ('"ewr"', '"EWR!"', "'name' in [silo] of silo.toml: 'EWR!' is not a name for a silo; use 1 to 63 of"),
        ('"airports"', '"a.b"', "'cohort' in [silo] of silo.toml: 'a.b' is not a name for a cohort"),
        (
            "amqp://me",
            "http://me",
            "'broker' in [silo] of silo.toml: this is not a broker's URL: its scheme is neither amqp nor amqps",
        ),
        ("[silo]", '[silo]\nmetrics = "9465"', "'metrics' in [silo] of silo.toml: '9465' is not HOST:PORT"),
        ("[silo]", "[silo]\nheartbeat = 0", "'heartbeat' in [silo] of silo.toml: expected float >= 0.2; it is seconds"),
        ("[silo]", '[silo]\nheartbeat = "5"', "'heartbeat' in [silo] of silo.toml: expected float, got str"),
        ("[silo]", '[silo]\nisolation = "vm"', 'invalid enum value \'vm\'; it is "namespace" or "none"'),
        (
            "[silo]",
            '[silo]\nruntime_confinement = "no"',
            'invalid enum value \'no\'; it is "best-effort" or "required" or "off"',
        ),
        (
            "[silo]",
            '[silo]\ncompression = "zip"',
            "'compression' in [silo] of silo.toml: invalid enum value 'zip'; it is",
        ),
        ("[silo]", "[silo]\nblob_cache_bytes = 1", "expected int >= 1048576; it is a number of bytes"),
        ("[silo]", "[silo]\nblob_cache_seconds = 0.5", "expected float >= 1.0; it is seconds, from 1 to 604800"),
        ("[silo]", "[silo]\nmax_work = 0", "'max_work' in [silo] of silo.toml: expected int >= 1; it is a number"),
        ("[silo]", "[silo]\nmax_work = 1025", "expected int <= 1024; it is a number from 1 to 1024"),
        ("[silo]", "[silo]\nmax_sessions = 0", "expected int >= 1; it is a number from 1 to 100000"),
        ("[silo]", "[silo]\nrenew_seconds = 0.1", "expected float >= 0.2; it is seconds, from 0.2 to 86400"),
        ("[silo]", "[silo]\nstandby = 1", "'standby' in [silo] of silo.toml: expected bool, got int"),
        ("[silo]", "[silo]\nname =", "silo.toml is not TOML: Invalid value (at line 3, column 7); correct that line"),
        ('source = "duckdb"\n', "", "'source' in [data.flights] of silo.toml is missing; add it"),
        ('source = "duckdb"', "source = 3", "'source' in [data.flights] of silo.toml is not a name"),
        ("[data.flights]", "[data]\nflights = 3\n[data.other]", "'data.flights' in silo.toml is not a table"),
        ("[data.fl", "[limits]\nmax_blob = 0\n[data.fl", "[limits] of silo.toml: max_blob is 0; it must be positive"),
        ("[data.fl", "[limits]\nmax_blib = 1\n[data.fl", "key 'max_blib' in [limits] of silo.toml; did you mean"),
        ("[data.fl", '[limits]\nmax_blob = "1"\n[data.fl', "'max_blob' in [limits] of silo.toml: expected int"),
        ("[silo]", "data = 3\n[silo]", "not TOML"),
    ],
)
def test_each_mistake_is_one_line(write, old, new, line):
    assert line in refused(write(GOOD.replace(old, new, 1)))


def test_silo_must_be_a_table(write):
    assert "'silo' in silo.toml is not a table; write [silo] above its keys" in refused(write("silo = 3"))


def test_missing_or_unreadable_file_is_an_error(tmp_path):
    assert "none.toml does not exist" in refused(tmp_path / "none.toml")
    assert "cannot be read" in refused(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in refused(tmp_path / "binary.toml")


def test_the_environment_overrides_the_file(write):
    environ = {
        "FEDBROKER_SILO_NAME": "jfk",
        "FEDBROKER_SILO_HEARTBEAT": "2.5",
        "FEDBROKER_SILO_COMPRESSION": "auto",
        "FEDBROKER_SILO_BLOB_CACHE_BYTES": "2097152",
        "FEDBROKER_DATA__FLIGHTS__QUERY": "select 2 as x",
        "FEDBROKER_DATA__EXTRA__SOURCE": "duckdb",
        "FEDBROKER_DATA__EXTRA__DEEP__KEY": "v",
        "FEDBROKER_URL": "not ours",
    }
    settings = load(write(GOOD), environ)
    assert settings.silo.name == "jfk"
    assert settings.silo.heartbeat == 2.5
    assert settings.silo.compression == "auto"
    assert settings.silo.blob_cache_bytes == 2097152
    assert settings.data["flights"].options == {"query": "select 2 as x"}
    assert settings.data["extra"].options == {"deep": {"key": "v"}}


def test_environment_variables_can_name_any_source(write):
    text = GOOD.replace("[data.flights]", '[data."My-Flights.2013"]')
    settings = load(write(text), {"FEDBROKER_DATA__MY_FLIGHTS_2013__QUERY": "select 3 as x"})
    assert settings.data["My-Flights.2013"].options == {"query": "select 3 as x"}


def test_all_settings_can_come_from_the_environment(write):
    environ = {f"FEDBROKER_SILO_{key.upper()}": value for key, value in SILO.items()}
    assert load(write(""), environ).silo == SiloSettings(**SILO)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FEDBROKER_SILO_NMAE", "x", "unknown key FEDBROKER_SILO_NMAE in the environment; did you mean 'name'?"),
        ("FEDBROKER_SILO_HEARTBEAT", "soon", "FEDBROKER_SILO_HEARTBEAT in the environment: expected float, got str"),
        (
            "FEDBROKER_SILO_BROKER",
            "amqp://u:secret@",
            "_SILO_BROKER in the environment: this is not a broker's URL",
        ),
        ("FEDBROKER_DATA__FLIGHTS", "x", "FEDBROKER_DATA__FLIGHTS in the environment names no key of a data source"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(write, name, value, line):
    assert line in refused(write(GOOD), {name: value})


def test_a_secret_may_come_from_a_file(write, tmp_path):
    url = "amqps://me:pass-word@broker.example/"
    (tmp_path / "broker").write_text(url + "\n")
    by_path = {"FEDBROKER_SILO_BROKER_FILE": str(tmp_path / "broker")}
    as_credential = {"FEDBROKER_SILO_BROKER_FILE": "broker", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for environ in (by_path, as_credential):
        assert load(write(GOOD), environ).silo.broker == url
    assert load(write(GOOD.replace("broker =", "# broker =")), by_path).silo.broker == url
    (tmp_path / "heartbeat").write_text("2.5")
    assert load(write(GOOD), {"FEDBROKER_SILO_HEARTBEAT_FILE": str(tmp_path / "heartbeat")}).silo.heartbeat == 2.5


@pytest.mark.parametrize(
    ("contents", "environ", "line"),
    [
        (None, {}, "FEDBROKER_SILO_BROKER_FILE: file {path} does not exist; correct FEDBROKER_SILO_BROKER_FILE"),
        (b"\n", {}, "FEDBROKER_SILO_BROKER_FILE: {path} is empty; correct FEDBROKER_SILO_BROKER_FILE, or"),
        (b"x" * (1 << 20) + b"\n", {}, "FEDBROKER_SILO_BROKER_FILE: {path} is larger than 1 MiB; correct"),
        (b"\xff", {}, "FEDBROKER_SILO_BROKER_FILE: {path} is not UTF-8 text"),
        (b"http://u:secret@h/", {}, "FEDBROKER_SILO_BROKER_FILE in the environment: this is not a broker's URL"),
        (b"amqp://h/", {"FEDBROKER_SILO_BROKER": "amqp://h/"}, "_BROKER and FEDBROKER_SILO_BROKER_FILE are both set"),
    ],
)
def test_a_mistake_in_such_a_file_names_variable_and_file(write, tmp_path, contents, environ, line):
    path = tmp_path / "broker"
    if contents is not None:
        path.write_bytes(contents)
    for order in (1, -1):  # for any order of the variables
        variables = list({"FEDBROKER_SILO_BROKER_FILE": str(path), **environ}.items())[::order]
        assert line.format(path=path) in refused(write(GOOD), dict(variables))


def test_service_variables_of_kubernetes_are_ignored(write):
    environ = {
        "FEDBROKER_SILO_SERVICE_HOST": "10.0.0.1",
        "FEDBROKER_SILO_SERVICE_PORT": "80",
        "FEDBROKER_SILO_PORT": "tcp://10.0.0.1:80",
        "FEDBROKER_SILO_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert load(write(GOOD), environ).silo.name == "ewr"


names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=20)


@given(name=names, cohort=names, heartbeat=st.floats(0.2, 60), cache=st.integers(2**20, 2**40))
def test_file_and_environment_give_equal_settings(tmp_path_factory, name, cohort, heartbeat, cache):
    values = {**SILO, "name": name, "cohort": cohort, "heartbeat": heartbeat, "blob_cache_bytes": cache}
    path = tmp_path_factory.mktemp("config") / "silo.toml"
    path.write_text("[silo]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    by_file = load(path, {})
    path.write_text("")
    by_environment = load(path, {f"FEDBROKER_SILO_{key.upper()}": str(value) for key, value in values.items()})
    assert by_file == by_environment
    assert isinstance(by_file, Settings)


@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(string.ascii_letters, max_size=5),
        lambda inner: st.dictionaries(st.sampled_from(["silo", "data", "name", "x", "source"]), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_document_gives_settings_or_a_one_line_error(tmp_path_factory, document):
    def toml(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
        return json.dumps(value) if value is not None else '""'

    path = tmp_path_factory.mktemp("config") / "silo.toml"
    lines = document.items() if isinstance(document, dict) else [("silo", document)]
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in lines))
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert "\n" not in str(caught.value)


def test_the_example_shows_each_limit_with_its_default():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "config" / "silo.example.toml").read_text()
    shown = dict(re.findall(r"^# (\w+) = ([\d.]+)", text.partition("[limits]")[2], re.MULTILINE))
    assert shown == {name: str(value) for name, value in dataclasses.asdict(Limits()).items()}


def test_default_policy_is_strict(write):
    policy = load(write(GOOD), {}).policy
    assert policy == PolicySettings()
    assert (policy.sources, policy.min_clients, policy.client_results) == (None, 1, "refuse")
    assert (policy.refuse_ops, policy.allow_ops, policy.max_bytes_out, policy.audit_file) == ((), (), 1 << 30, "")
    assert policy.summary == (
        "any source with at least 1 client; only aggregates leave; errors with position only; "
        "at most 1,073,741,824 bytes per session, 604,800 s per work item, 4 failures per session; no audit log"
    )


@pytest.mark.parametrize(
    ("results", "detail", "in_full"),
    [
        ("refuse", None, False),
        ("allow", None, True),
        ("refuse", "full", True),
        ("allow", "position", False),
    ],
)
def test_full_errors_need_client_results_or_an_explicit_setting(results, detail, in_full):
    assert PolicySettings(client_results=results, error_detail=detail).errors_in_full is in_full


def test_a_policy_is_read(write):
    text = """
    [policy]
    sources = ["flights"]
    min_clients = 5
    min_rows = 1000
    client_results = "allow"
    refuse_ops = ["Assert"]
    allow_ops = ["PrintV2", "ReadFile"]
    max_bytes_out = 1000
    max_failures = 2
    error_detail = "position"
    max_seconds = 90
    audit_file = "audit.log"
    """
    policy = load(write(GOOD + text), {}).policy
    assert (policy.sources, policy.allow_ops) == (("flights",), ("PrintV2", "ReadFile"))
    assert policy.summary == (
        "sources flights with at least 5 clients and 1,000 rows; client values may leave; errors with position only; "
        "at most 1,000 bytes per session, 90 s per work item, 2 failures per session; "
        "refused ops: Assert; allowed ops: PrintV2, ReadFile; audit log audit.log"
    )
    environ = {"FEDBROKER_POLICY_AUDIT_FILE": "/var/lib/silo/audit.log"}
    assert load(write(GOOD + text), environ).policy.audit_file == "/var/lib/silo/audit.log"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_seconds = 0", "'max_seconds' in [policy] of silo.toml"),
        (
            'sources = ["flight"]',
            "'sources' in [policy] of silo.toml: [data.flight] does not exist; did you mean 'flights'?",
        ),
        (
            "sources = 7",
            "'sources' in [policy] of silo.toml: expected array | null, got int; it is a list of names of data sources",
        ),
        ("min_clients = 0", "'min_clients' in [policy] of silo.toml: expected int >= 1; it is a number, at least 1"),
        ('client_results = "yes"', '"refuse" or "allow"'),
        ('error_detail = "none"', '"position" or "full"'),
        ("max_failures = 0", "'max_failures' in [policy] of silo.toml"),
        ('refuse_ops = ["PrintV3"]', "TensorFlow has no op 'PrintV3'; did you mean 'Print'?"),
        ('allow_ops = ["readfile"]', "TensorFlow has no op 'readfile'; did you mean"),
        ('allow_ops = ["Add"]\nrefuse_ops = ["Add"]', "'Add' is in 'refuse_ops', too"),
        ("max_bytes = 7", "unknown key 'max_bytes' in [policy] of silo.toml; did you mean 'max_bytes_out'?"),
    ],
)
def test_mistakes_in_a_policy_are_named(write, line, said):
    assert said in refused(write(f"{GOOD}\n[policy]\n{line}\n"))


@pytest.mark.parametrize(("table", "settings"), [("policy", PolicySettings), ("security", SecuritySettings)])
def test_the_example_shows_each_key_of_a_table(table, settings):
    from pathlib import Path

    text = (Path(__file__).parents[2] / "config" / "silo.example.toml").read_text()
    tables = dict(re.findall(r"^(?:# )?\[([\w.]+)\]\n(.*?)(?=^(?:# )?\[|\Z)", text, re.MULTILINE | re.DOTALL))
    shown = re.findall(r"^# (\w+) = ", tables[table], re.MULTILINE)
    assert shown == [field.name for field in dataclasses.fields(settings)]


def test_the_example_is_valid(tmp_path):
    from pathlib import Path

    example = Path(__file__).parents[2] / "config" / "silo.example.toml"
    settings = load(example, {})
    assert settings.silo.name
    assert settings.data


def test_a_runtime_needs_some_memory(write):
    assert load(write(GOOD), {"FEDBROKER_SILO_RUNTIME_MEMORY_BYTES": "268435456"}).silo.runtime_memory_bytes == 1 << 28
    line = refused(write(GOOD), {"FEDBROKER_SILO_RUNTIME_MEMORY_BYTES": "268435455"})
    assert "FEDBROKER_SILO_RUNTIME_MEMORY_BYTES in the environment: too few" in line
    assert "at least 268435456" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 5000, "silo.toml is nested too deeply"),
        ("x = " + "{a=" * 5000, "silo.toml is nested too deeply"),
        ("x = " + "9" * 6000, "silo.toml is not TOML"),
    ],
)
def test_deep_or_endless_document_is_a_one_line_error(write, text, words):
    assert words in refused(write(GOOD + text))
