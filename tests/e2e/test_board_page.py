"""The board's page in a real Chromium, with views of a made-up federation and of a hostile one."""

from __future__ import annotations

import random
import re
import time

import msgspec
import pytest
from playwright.sync_api import Page, expect

from fedbroker.board.views import Changes, CohortView, CurveView, NoticeView, Removed, State
from tests.support.board_page import NARROW, PageServer, chromium, opened, too_wide
from tests.support.board_views import FAILED, NAMES, RUN, RUNNING, answered, bar, curve, federation, session, silo
from tests.support.wait import wait_until

VIEWS = ["", "cohorts/airports", "cohorts", "sessions", f"sessions/{RUNNING}", "runs", f"runs/{RUN}", "notices"]

CONTRASTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, two) => {
    const [a, b] = [light(one), light(two)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest(".hidden-visually, .skip")) continue;
    const style = getComputedStyle(element);
    const colour = numbers(element.closest("svg") ? style.fill : style.color);
    found.push([ratio(colour, ground(element)), `${node.data.trim().slice(0, 30)} in ${element.tagName}`]);
  }
  for (const mark of document.querySelectorAll("[class^=part-], .curve")) {
    if (mark.matches(".part-rest") || !mark.checkVisibility()) continue;
    const style = getComputedStyle(mark);
    const colour = numbers(mark.matches(".curve") ? style.stroke : style.fill);
    found.push([ratio(colour, ground(mark)) * 1.5, mark.getAttribute("class")]); // 3:1 is enough for a mark
  }
  return found;
}"""


EMPTY = State(cohorts=[], silos=[], sessions=[], stages=[], bars=[], curves=[], notices=[], broker="", missed=0, at=0.0)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server():
    with PageServer(federation()) as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_phone_and_can_be_read(browser, server, scheme):
    with opened(browser, server.url, viewport={"width": NARROW, "height": 844}, color_scheme=scheme) as page:
        grounds = set()
        for view in VIEWS:
            page.goto(f"{server.url}#/{view}")
            expect(page.locator("h1")).to_be_visible()
            assert too_wide(page) == [], view
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 5
            assert [(ratio, what) for ratio, what in contrasts if ratio < 4.5] == [], view
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds == {"rgb(246, 247, 249)" if scheme == "light" else "rgb(14, 17, 22)"}


def test_the_first_view_says_what_runs_and_why_it_waits(browser, server):
    with opened(browser, server.url) as page:
        running = page.get_by_role("region", name="Under way")
        expect(running).to_contain_text("digits, round 25")
        expect(running).to_contain_text("Waiting for st-thomas (late")
        expect(running.get_by_role("img")).to_have_accessible_name("stage 1: 3 of 5 silos answered")
        expect(page.get_by_role("table", name="Cohorts")).to_contain_text("jfk gone, st-thomas late")
        expect(page.get_by_role("status", name="Why it waits")).to_contain_text(
            "Waiting for st-thomas (late: last heard of 12 s ago)"
        )
        expect(page).to_have_title("digits, round 25 runs \N{EN DASH} fedbroker board")
        assert page.get_by_role("link", name="This view as JSON").get_attribute("href") == "api/state"


def test_landmarks_headings_and_names(browser, server):
    with opened(browser, server.url, f"sessions/{RUNNING}") as page:
        tree = page.locator("body").aria_snapshot()
        for line in (
            '- link "To the content"',
            "- banner:",
            '- navigation "Views":',
            "- main:",
            '- heading "digits, round 25" [level=1]',
            '- heading "Time line" [level=2]',
            '- combobox "Stage"',
            '- list "Silos":',
            '- table "Stages":',
        ):
            assert line in tree
        assert re.search(r'img "ewr: stage 0: answered in \d\.\d s: queue 0\.\d+ s, [^"]*; stage 1: answered', tree)
        assert re.search(r'img "lga: stage 0: [^"]*; stage 1: waiting for [\d.]+ s"', tree)
        assert 'img "jfk: stage 0: timed out after 3.4 s: no reply within 3.4 s"' in tree
        page.goto(f"{server.url}#/")
        tree = page.locator("body").aria_snapshot()
        assert re.search(r'img "train/loss by round: 24 points, from [\d.]+ in round 1 to [\d.]+ in round 24"', tree)
        assert '- slider "Round of train/loss"' in tree


def test_the_keyboard_reaches_everything(browser, server):
    with opened(browser, server.url) as page:

        def focused() -> str:
            return page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
            )

        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # skips the navigation
        expect(page.locator("main")).to_be_focused()
        expect(page.locator("h1")).to_have_text("Overview")
        page.reload()
        expect(page.locator("h1")).to_have_text("Overview")
        walked = []
        for _ in range(14):
            page.keyboard.press("Tab")
            walked.append(focused())
            outline = page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle"
                " + getComputedStyle(document.activeElement.closest('.area') ?? document.body).outlineStyle"
            )
            assert "solid" in outline or "auto" in outline, walked
        assert walked[:8] == [
            "To the content",
            "fedbroker board",
            "Overview",
            "Sessions",
            "Curves",
            "Notices",
            "This view as JSON",
            "digits, round 25",
        ]
        assert walked[8:10] == ["airports", "hospitals"]
        assert walked[11] == "Round of train/loss"
        page.get_by_role("link", name="digits, round 25").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="digits, round 25")).to_be_focused()
        assert page.url.endswith(f"#/sessions/{RUNNING}")
        page.go_back()
        expect(page.get_by_role("heading", name="Overview")).to_be_focused()


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("", "computes for {} s"),
        ("sessions", "{}"),
        (f"sessions/{RUNNING}", "computes for {} s"),
        ("runs", "round {}"),
        (f"runs/{RUN}", "{}"),
    ],
)
def test_changes_leave_the_focus_where_it_is(browser, view, words):
    with PageServer(federation()) as server, opened(browser, server.url, view) as page:
        link = page.locator("main").get_by_role("link", name=re.compile("^digits")).first
        link.focus()
        running = next(session for session in server.state.sessions if session.id == RUNNING)
        loss = next(curve for curve in server.state.curves if curve.metric == "train/loss")
        for number in (33, 34):
            waits = f"It waits for lga, which computes for {number} s."
            changed = msgspec.structs.replace(running, waits=waits, dropped=number)
            grown = msgspec.structs.replace(loss, points=[(number, 0.5)])
            server.send(Changes(at=time.time(), sessions=[changed], curves=[grown]))
            expect(page.locator("main")).to_contain_text(words.format(number))
        expect(link).to_be_focused()


def test_arrow_keys_and_a_pointer_read_a_curve(browser, server):
    with opened(browser, server.url, f"runs/{RUN}") as page:
        chart = page.locator("figure").filter(has_text="examples")
        slider = chart.get_by_role("slider")
        slider.focus()
        page.keyboard.press("Home")
        expect(slider).to_have_attribute("aria-valuetext", "round 1: 1797")
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        expect(chart.locator("output")).to_have_text("round 5: 1797")
        page.get_by_role("heading", level=1).click()
        expect(chart.locator("output")).to_have_text("1797")
        box = page.locator("figure").first.locator(".area").bounding_box()
        page.mouse.move(box["x"] + 55, box["y"] + 60)
        expect(page.locator("figure").first.locator("output")).to_contain_text("round 1: ")


def test_a_curve_grows_by_a_point_for_each_round(browser):
    with PageServer(federation()) as server, opened(browser, server.url, f"runs/{RUN}") as page:
        slider = page.get_by_role("slider", name="Round of train/loss")
        loss = next(curve for curve in server.state.curves if curve.metric == "train/loss")
        for number in range(25, 29):
            grown = msgspec.structs.replace(loss, points=[(number, 0.01)])
            server.send(Changes(at=time.time(), curves=[grown]))
            expect(slider).to_have_attribute("data-points", str(number))
            expect(slider).to_have_attribute("aria-valuetext", f"round {number}: 0.01")
        expect(page.get_by_role("slider", name="Round of eval/accuracy")).to_have_attribute("data-points", "24")


def test_values_that_are_no_numbers_leave_a_gap(browser):
    state = federation()
    loss = curve("train/loss", 5, random.Random(1))
    state = msgspec.structs.replace(
        state, curves=[msgspec.structs.replace(loss, points=[*loss.points, (6, float("nan"))])]
    )
    with PageServer(state) as server, opened(browser, server.url, f"runs/{RUN}") as page:
        expect(page.get_by_role("slider")).to_have_attribute("data-points", "5")


def test_a_sessions_bars_appear_and_grow_while_it_runs(browser):
    with PageServer(EMPTY) as server, opened(browser, server.url, expected="404") as page:
        expect(page.get_by_role("region", name="Under way")).to_contain_text("No session is running.")
        began = time.time()
        view = session("a" * 16, began, round=1, waits="It waits for ewr and jfk.")
        bars = [bar(view.id, 0, name, 0.1) for name in ("ewr", "jfk")]
        server.send(Changes(at=began, sessions=[view], bars=bars))
        page.get_by_role("link", name="digits, round 1").click()
        ewr = page.get_by_role("img", name=re.compile("^ewr: stage 0: waiting"))
        width = lambda: float(ewr.locator(".part-waiting").get_attribute("width").removesuffix("%"))  # noqa: E731
        before = width()
        wait_until(lambda: width() > before + 1)
        done = answered(view.id, 0, "ewr", 0.1, random.Random(2))
        server.send(Changes(at=time.time(), bars=[done]))
        ewr = page.get_by_role("img", name=re.compile("^ewr: stage 0: answered"))
        expect(ewr.locator("rect")).to_have_count(5)  # the track, queue, transfer, compute, and the way back
        expect(page.get_by_role("img", name=re.compile("^jfk: stage 0: waiting"))).to_be_visible()
        over = msgspec.structs.replace(view, ended=began + 2, outcome="ok", waits="")
        server.send(Changes(at=time.time(), sessions=[over]))
        expect(page.locator("p.waits")).to_be_hidden()
        server.send(Changes(at=time.time(), removed=Removed(sessions=[view.id])))
        expect(page.locator("p.waits")).to_contain_text("This board does not know this session")


def test_a_past_sessions_bars_are_fetched(browser, server):
    with opened(browser, server.url, f"sessions/{FAILED}", expected="404") as page:
        expect(page.locator(".error")).to_contain_text("FB3102: 3 of 4 silos answered")
        page.goto(f"{server.url}#/sessions/unknown")
        expect(page.locator("p.waits")).to_contain_text("This board does not know this session")


def test_stages_and_order_are_chosen(browser, server):
    with opened(browser, server.url, f"sessions/{RUNNING}") as page:
        names = page.locator(".silo > .name")
        expect(names).to_have_text(sorted(NAMES))
        page.get_by_label("Order of silos").select_option("slowest first")
        expect(names.first).to_have_text("jfk")
        page.get_by_label("Stage", exact=True).select_option("stage 1")
        expect(names).to_have_count(5)
        expect(names.first).to_have_text(re.compile("lga|st-thomas"))


SCRIPT = "<img src=x onerror=window.hit=1><script>window.hit=1</script>"
TEXTS = ("cohort", "coordinator", "computation", "program", "run", "error", "waits")
HOSTILE = [
    SCRIPT,
    "\x1b[31mred\x1b]0;title\x07",
    "\u202eevil\x00 a\r\nb",
    "x" * 10_000,
    "'\"><svg/onload=window.hit=1>",
    "__proto__",
]


EXTREME = [(1, 1e300), (2, -1e300), (3, 5e-324)]


@pytest.mark.parametrize("width", [1280, NARROW])
def test_names_and_texts_of_others_do_no_harm(browser, width):
    """Views with such names: the board's own checks are not what protects the page."""
    now = time.time()
    runs = [f"{n}{text}" for n, text in enumerate(HOSTILE)]
    sessions = [session(text, now, round=1, **dict.fromkeys(TEXTS, text)) for text in runs]
    bars = [bar(runs[0], 0, text, 0.1, outcome="failed", total=1.0, why=text) for text in runs]
    state = State(
        cohorts=[CohortView(name=text, silos=1, present=0, dead_letters=None) for text in runs],
        silos=[silo(text, now, cohort=runs[0], state="gone", version=text, sources=[text, text]) for text in runs],
        sessions=sessions,
        stages=[],
        bars=bars,
        curves=[
            CurveView(run=text, program=text, cohort=text, metric=text, points=[(1, 1e300), (2, -1e300), (3, 5e-324)])
            for text in runs
        ],
        notices=[NoticeView(time=now, cohort=text, session=text, silo=text, kind="forged", text=text) for text in runs],
        broker="",
        missed=3,
        at=now,
    )
    with PageServer(state) as server, opened(browser, server.url, viewport={"width": width, "height": 844}) as page:
        for view in ("", "sessions", "runs", "notices", "cohorts"):
            page.goto(f"{server.url}#/{view}")
            expect(page.locator("main")).to_contain_text("<img src=x onerror=window.hit=1>")
            assert too_wide(page) == [], view
            assert page.locator("main script, main img, main svg[onload]").count() == 0
            text = page.locator("main").inner_text()
            assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", text) is None
            assert "x" * 500 not in text
        for kind in ("sessions", "cohorts", "runs"):
            page.evaluate("([kind, id]) => { location.hash = `#/${kind}/${encodeURIComponent(id)}`; }", [kind, runs[0]])
            expect(page.locator("h1")).to_contain_text("0<img src=x")
            assert too_wide(page) == [], kind
        page.goto(f"{server.url}#/sessions/%E0%A4%A")  # what no browser decodes
        expect(page.locator("h1")).to_have_text("Overview")
        assert r"\x1b[31mred" in page.locator("main").inner_text()
        assert r"\u202eevil\x00" in page.locator("main").inner_text()
        assert page.evaluate("window.hit") is None


def test_the_page_says_when_the_server_or_the_broker_is_lost(browser):
    state = federation()
    with PageServer(state) as server, opened(browser, server.url, expected="ERR_") as page:
        status = page.locator("#status")
        expect(status).to_have_text("live")
        server.send(Changes(at=time.time(), broker="connection refused"))
        expect(status).to_have_text("broker lost")
        expect(page.get_by_role("alert")).to_contain_text("connection refused")
        server.send(Changes(at=time.time(), broker=""))
        expect(status).to_have_text("live")
        expect(page.locator("#lost")).to_be_hidden()
        port = server.port
        server.close()
        expect(status).to_have_text("reconnecting")
        expect(page.locator("main")).to_contain_text(
            "Waiting for st-thomas (late: last heard of 12 s ago)"
        )  # what was known stays
        with PageServer(state, port):
            expect(status).to_have_text("live", timeout=20_000)


def test_a_silent_connection_is_replaced(browser, server):
    """A laptop that slept, or a proxy that forgot, leaves a connection on which nothing comes and nothing ends."""
    with opened(browser, server.url) as page:
        page.clock.install()
        page.reload()
        expect(page.locator("#status")).to_have_text("live")
        with page.expect_request("**/api/events"):
            page.clock.fast_forward(42_000)
            page.clock.run_for(1_000)
        expect(page.locator("#status")).to_have_text("live")


def test_filters_find_one_of_many_silos(browser):
    with PageServer(federation(1000)) as server, opened(browser, server.url, f"sessions/{RUNNING}") as page:
        rows = page.locator("li.silo")
        expect(rows).to_have_count(40)
        expect(page.get_by_role("img", name=re.compile("Time of all 1,000 silos: longest"))).to_be_visible()
        page.get_by_role("searchbox", name="Find a silo").fill("0777")
        expect(rows).to_have_count(1)
        expect(rows.locator(".name")).to_have_text("silo-0777")
        page.get_by_role("searchbox", name="Find a silo").fill("nowhere")
        expect(page.locator(".timeline")).to_contain_text("No silo with “nowhere”.")
        page.get_by_role("searchbox", name="Find a silo").fill("")
        page.locator(".timeline").get_by_role("button", name="Show more").click()
        expect(rows).to_have_count(200)


def test_numbers_and_axes_are_for_people(browser, server):
    with opened(browser, server.url) as page:

        def called(module: str, function: str, *arguments: object) -> object:
            code = "async ([module, name, given]) => (await import(`/assets/${module}.js`))[name](...given)"
            return page.evaluate(code, [module, function, list(arguments)])

        durations = {
            0.034: "0.03 s",
            3.21: "3.2 s",
            59.96: "1 min 00 s",
            3725: "1 h 02 min",
            90000: "1 d 1 h",
            -1: "0.00 s",
        }
        assert {seconds: called("base", "duration", seconds) for seconds in durations} == durations
        sizes = {0: "0 B", 999: "999 B", 1200: "1.2 kB", 999_600: "1.0 MB", 123_456_789: "123 MB"}
        assert {size: called("base", "bytes", size) for size in sizes} == sizes
        values = {
            0: "0",
            0.123456: "0.1235",
            1797: "1797",
            0.00001234: "1.23e-5",
            12345678: "1.23e+7",
            1e300: "1.00e+300",
        }
        assert {number: called("base", "value", number) for number in values} == values
        assert called("chart", "ticks", 0.06, 2.3, 6) == [0.5, 1, 1.5, 2]
        assert called("chart", "ticks", 1, 3, 9, True) == [1, 2, 3]
        many = [[n, (n * 7919) % 1000] for n in range(10_000)]
        many[5000][1] = 5000
        thin = called("chart", "thinned", many, 200)
        assert len(thin) <= 800
        assert [5000, 5000] in thin
        assert called("base", "clean", "a\u202eb\x1b[0m", 6) == "a\\u202eb\\x1b[0…"


def test_many_running_sessions_are_a_list(browser):
    now = time.time()
    state = msgspec.structs.replace(EMPTY, at=now, sessions=[session(f"{n:016}", now - n) for n in range(60)])
    with PageServer(state) as server, opened(browser, server.url) as page:
        expect(page.locator("li.running")).to_have_count(12)
        page.get_by_role("link", name="All sessions under way").click()
        expect(page.get_by_role("table", name="Sessions under way").get_by_role("row")).to_have_count(26)


def still_moves(page: Page) -> list[str]:
    return page.evaluate("document.getAnimations().map((one) => String(one))")


def test_nothing_moves_for_those_who_ask_for_less_motion(browser, server):
    with opened(browser, server.url, f"sessions/{RUNNING}", reduced_motion="reduce") as page:
        assert still_moves(page) == []
        changes = page.evaluate(
            """() => new Promise((done) => {
              let count = 0;
              const seen = new MutationObserver((all) => {
                count += all.some((one) => one.attributeName === "width");
              });
              seen.observe(document.querySelector(".silos"), { subtree: true, attributes: true });
              setTimeout(() => done(count), 2500);
            })"""
        )
        assert changes <= 3  # a step a second
