"""``fedbroker-silo board``: a real silo, a real program, and the page in Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import tensorflow_federated as tff
from fedbroker_worker.config import load

import fedbroker
from fedbroker.deadline import Deadline
from fedbroker.errors import PolicyRefusal
from fedbroker.testing import local_cohort
from fedbroker.wire.messages import Compute, Data, Failed
from tests.support.board_page import chromium, opened, too_wide
from tests.support.computations import COLUMN, sum_numbers, sum_of
from tests.support.gated_source import gated_source, let_reads_return
from tests.support.local_tff import pack_arguments
from tests.support.wait import PROCESS_SECONDS, wait_until
from tests.support.worker import work_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MARK = 918273645
"""A value of the silo's data, which must be on no page and in no JSON."""

NUMBERS = {"source": "duckdb", "query": f"select {MARK}::float as delay from range(10)"}

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e" + "x" * 10_000
"""Markup, an ANSI escape, a character that turns text around, and 10,000 characters."""


@pytest.fixture(scope="module")
def silos(broker, tmp_path_factory):
    """Start two silos that let recognised aggregates leave, and keep an audit log."""
    module_path = tmp_path_factory.mktemp("sources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(module_path))
        sources = {"numbers": NUMBERS, "waiting": gated_source(module_path, waits=True)}
        policy = {"aggregates": "recognised", "audit_file": "audit.log"}
        with local_cohort(
            dict.fromkeys(("ewr", "jfk"), sources), cohort="siloboard", broker=broker.url, policy=policy
        ) as cohort:
            yield cohort


@pytest.fixture(scope="module")
def ewr(silos):
    return silos.silos["ewr"]


@pytest.fixture(scope="module")
def context(silos):
    with fedbroker.create_sync_execution_context(silos.url, cohort=silos.cohort, min_silos=2) as context:
        yield context


@pytest.fixture(scope="module")
def context_of_ewr(silos):
    """Make a context that asks one silo only: of two that refuse, the slower one may be cancelled before it does."""
    options = fedbroker.Options(eligible=lambda member: member.name == "ewr")
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=1, options=options
    ) as context:
        yield context


@contextlib.contextmanager
def board(process, *arguments, **environ):
    """Run ``fedbroker-silo board`` within the block; yield the URL that it prints."""
    config = str(process.directory / "silo.toml")
    command = [sys.executable, "-m", "fedbroker_worker", "board", "--config", config, *arguments]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = page.stdout.readline().strip()
        assert url.startswith("http://"), url
        yield url
        page.terminate()
        assert page.wait(PROCESS_SECONDS) == 0
    finally:
        page.kill()
        page.wait()
        page.stdout.close()


@pytest.fixture(scope="module")
def url(ewr):
    with board(ewr, "--listen", "127.0.0.1:0") as url:
        yield url.rstrip("/")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def get(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.loads(response.read())


def named(url, name):
    """Return the newest work item of a computation of that name; None without one."""
    return next((item for item in reversed(get(f"{url}/api/work")["work"]) if item["computation"] == name), None)


def rows_of_clients(name="rows_of_clients"):
    """Return a computation that sends each client's rows, which the silos' policy refuses."""

    def same(rows):
        return rows

    same.__name__ = name
    return tff.federated_computation(same, tff.FederatedType(COLUMN, tff.CLIENTS))


def test_page_shows_what_left_and_what_was_refused(context, context_of_ewr, url, browser, ewr):
    assert sum_numbers(context) == pytest.approx(20 * MARK)
    computation = rows_of_clients()
    with pytest.raises(PolicyRefusal):
        context_of_ewr.invoke(computation, pack_arguments(computation, (fedbroker.data("numbers"),)))
    wait_until(lambda: (found := named(url, "rows_of_clients")) and found["state"] == "refused")
    answered, refused = named(url, "sum_of"), named(url, "rows_of_clients")
    assert (answered["state"], answered["releases"]) == ("answered", ["sum of float32"])
    assert answered["reads"] == [{"source": "numbers", "columns": ["delay: float32"]}]
    assert answered["bytes_out"] > 0
    assert (refused["rule"], refused["releases"], refused["bytes_out"]) == ("client_results", [], 0)
    account = get(f"{url}/api/work/{answered['id']}/account")["lines"]
    assert account[0].startswith("reads source 'numbers': delay as float32")
    assert account[-1] == "  1: the sum over clients of float32"
    assert get(f"{url}/api/work/{refused['id']}/account")["lines"][-1] == "  1: values of single clients"
    with opened(browser, url) as page:
        row = page.locator("#asked-list details", has_text="rows_of_clients").first
        assert "only aggregates may leave" in row.inner_text()
        row.locator("summary").focus()
        page.keyboard.press("Enter")
        row.get_by_text("calls a computation").first.wait_for()
        assert "client_results in [policy]" in row.inner_text()
        page.get_by_role("button", name="Refused").click()
        assert page.locator("#asked-list details", has_text="sum_of").count() == 0
        assert page.locator("h1").inner_text() == "ewr"
        assert "delay: float32" in page.locator("#sources").inner_text()
        assert "only sums, counts, minima and maxima" in page.locator("#guarantee").inner_text()
        everything = page.content()
    everything += json.dumps(get(f"{url}/api/state"))
    assert str(MARK) not in everything
    assert re.search(r"fedbroker@127\.0\.0\.1", everything)  # the broker's user, and not the password
    assert ":fedbroker@" not in everything


def test_running_work_appears_while_it_runs(context, url, browser, silos):
    """Watch a work item that waits for its data: it moves from the running ones to the answered ones by itself."""
    with opened(browser, url) as page, ThreadPoolExecutor(1) as pool:
        arguments = pack_arguments(sum_of, (fedbroker.data("waiting"),))
        computing = pool.submit(context.invoke, sum_of, arguments)
        try:
            row = page.locator("#running-list details", has_text="reads waiting")
            row.wait_for()
            assert "computing" in row.inner_text() or "waiting for blobs" in row.inner_text()
        finally:
            for process in silos.silos.values():
                let_reads_return(process.directory)
        assert computing.result(60) == 2.0
        page.locator("#running-empty").wait_for(state="visible")
        assert page.locator("#asked-list details").first.inner_text().count("answered") == 1


def test_hostile_names_do_no_harm(context_of_ewr, url, browser):
    computation = rows_of_clients(HOSTILE)
    with pytest.raises(PolicyRefusal):
        context_of_ewr.invoke(computation, pack_arguments(computation, (fedbroker.data("numbers"),)))
    wait_until(lambda: any("onerror" in item["computation"] for item in get(f"{url}/api/work")["work"]))
    for scheme, width in (("light", 1280), ("dark", 390)):
        size = {"width": width, "height": 800}
        with opened(browser, url, viewport=size, color_scheme=scheme) as page:
            row = page.locator("#asked-list details", has_text="onerror").first
            row.locator("summary").click()
            row.get_by_text("calls a computation").first.wait_for()
            assert page.locator("img[src=x]").count() == 0
            text = page.locator("main").inner_text()
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert too_wide(page) == []


def test_hostile_coordinator_does_no_harm(url, browser, ewr):
    """Send work by hand, with names that no context would send: raw escapes, and a source name of 10,000 characters."""
    own = load(ewr.directory / "silo.toml", {})

    async def send():
        async with work_client(own) as client:
            item = client.item([Data(1, HOSTILE, ((HOSTILE, "float32"),)), Compute(1)])
            return await client.send(msgspec.structs.replace(item, computation=f"raw {HOSTILE}"[:100]))

    with ThreadPoolExecutor(1) as pool:  # this thread has playwright's event loop
        assert isinstance(pool.submit(asyncio.run, send()).result(120), Failed)
    wait_until(lambda: any(item["computation"].startswith("raw") for item in get(f"{url}/api/work")["work"]))
    assert "\\u001b" not in json.dumps(get(f"{url}/api/state"))
    with opened(browser, url, viewport={"width": 390, "height": 800}) as page:
        row = page.locator("#asked-list details", has_text="raw <img").first
        row.locator("summary").click()
        row.get_by_text("Its computations are not kept here.").wait_for()
        assert page.locator("img[src=x]").count() == 0
        assert too_wide(page) == []


def test_page_has_names_for_everything(url, browser):
    with opened(browser, url) as page:
        assert page.get_by_role("main").count() == 1
        assert page.get_by_role("heading", level=1).count() == 1
        for region in ("Running now", "What was asked, and what left", "Policy in force"):
            assert page.get_by_role("region", name=region).count() == 1
        assert page.get_by_role("button", pressed=True).inner_text() == "All"
        assert page.get_by_role("navigation", name="Sections").count() == 1


def test_page_follows_a_pause_and_the_end_of_the_service(url, browser, ewr, silos):
    def command(name):
        config = str(ewr.directory / "silo.toml")
        subprocess.run([sys.executable, "-m", "fedbroker_worker", name, "--config", config], check=True, stdout=-3)

    with opened(browser, url, expected="503") as page:
        state = page.locator("#state")
        command("pause")
        state.get_by_text("paused", exact=True).wait_for()
        command("resume")
        state.get_by_text("in its cohort", exact=True).wait_for()
        before = page.locator("#asked-list details").count()
        assert before >= 2
        ewr.kill()
        state.get_by_text("no service", exact=True).wait_for()
        assert "FB4209" in page.locator("#problem").inner_text()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(f"{url}/api/status")
        ewr.start()
        ewr.wait_ready(Deadline.after(60))
        state.get_by_text("in its cohort", exact=True).wait_for()
        # Work of the killed process, from the audit log.
        wait_until(lambda: page.locator("#asked-list details").count() == before)
        assert named(url, "sum_of")["id"] < 0


def test_views_that_do_not_exist(url):
    for path in ("work/999999", "work/x", "work/999999/account", "nothing"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{url}/api/{path}")


def test_page_beyond_this_machine_needs_its_token(ewr):
    with board(ewr, "--listen", "0.0.0.0:0") as url:
        address, _, token = url.partition("?token=")
        address = address.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(f"{address}api/state")
        request = urllib.request.Request(f"{address}api/state", headers={"Authorization": f"Bearer {token}"})
        assert "work" in get(request)
