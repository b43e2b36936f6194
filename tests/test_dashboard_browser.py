"""The dashboard in a real browser: Debian's Chromium, headless, against a real server over a real store."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from dashboard_server import Client, dashboard, running
from dashboard_world import World
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from portfolio_research.alerts import AlertType, Notice, Severity
from portfolio_research.dashboard import pages
from portfolio_research.store.alerts import AlertDesk
from portfolio_research.store.outbox import StoreSink

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = "<img src=x onerror='window.hacked=1'>"
HARMLESS = ("Unsatisfied version", "No satisfying version")  # JupyterLab's modules about their own versions
SLOW = 30_000  # milliseconds, for machines that do something else as well


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = which("chromium") or which("chromium-browser")
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("CI must test the dashboard in a browser: install chromium")
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, World]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path_factory.mktemp("home")))
        with dashboard(rename={"AAPL": EVIL}) as (client, world):
            yield client, world


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages come without a kernel, as they do beyond its limit, unless a test is about the kernel."""
    if "with_kernel" not in request.fixturenames:
        monkeypatch.setattr(pages.KernelLimits, "allow", lambda self, alive: False)


@pytest.fixture
def with_kernel() -> None:
    """For tests of the page together with its kernel."""


class Watch:
    """What must not happen on a page."""

    def __init__(self, page: Page, origin: str) -> None:
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url, origin))
        page.on("console", lambda line: self._console(line.type, line.text))

    def _request(self, url: str, origin: str) -> None:
        if not url.startswith((origin, origin.replace("http", "ws", 1), "data:", "blob:")):
            self.problems.append(f"request outside: {url}")

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not text.startswith(HARMLESS):
            self.problems.append(f"{kind}: {text}")


@contextmanager
def viewer(browser: Browser, width: int = 1440, scheme: Any = "light") -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(SLOW)
    try:
        yield context
    finally:
        context.close()


def visit(context: BrowserContext, client: Client, query: str = "") -> tuple[Page, Watch]:
    """Open the dashboard and wait for its first numbers."""
    page = context.new_page()
    watch = Watch(page, f"http://127.0.0.1:{client.port}")
    page.goto(f"http://127.0.0.1:{client.port}/?token={client.token}{query}", wait_until="commit")
    expect(page.locator("#card-value .value")).to_contain_text("$", timeout=SLOW)
    return page, watch


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return met


CUT = """() => {
  const wide = document.documentElement.clientWidth, cut = [];
  if (document.scrollingElement.scrollWidth > wide) cut.push('page ' + document.scrollingElement.scrollWidth);
  for (const node of document.querySelectorAll('.prd *')) {
    const style = getComputedStyle(node), box = node.getBoundingClientRect();
    if (!box.width || style.visibility === 'hidden') continue;
    if (node.closest('.hidden, svg, thead, .chart, .bar, .meter')) continue;
    if (box.right > wide + 1 || box.left < -1) cut.push(node.tagName + '.' + node.className + ' ' + box.right);
    if (style.overflowX !== 'visible' && node.scrollWidth > node.clientWidth + 1) cut.push('clipped ' + node.className);
    if (node.matches('.card .value') && node.scrollWidth > node.parentElement.clientWidth) cut.push(node.textContent);
  }
  for (const table of document.querySelectorAll('.prd table')) {
    const row = table.tBodies[0].rows[0];
    if (!row || !row.getClientRects().length) continue;
    for (const cell of row.cells) if (!cell.getClientRects().length) cut.push('column ' + cell.dataset.label);
  }
  return cut;
}"""


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(360, "light"), (390, "light"), (390, "dark"), (768, "dark"), (1440, "light"), (1440, "dark"), (1920, "light")],
)
def test_every_width_shows_everything(browser: Browser, place: tuple[Client, World], width: int, scheme: str) -> None:
    client, world = place
    world.beat()
    with viewer(browser, width, scheme) as context:
        page, watch = visit(context, client)
        page.wait_for_selector("[data-charts=drawn]")
        assert page.evaluate(CUT) == []
        for section in ("overview", "performance", "allocation", "positions", "alerts", "rebalancing", "metrics"):
            assert page.locator(f"#{section}").is_visible(), section
        assert page.locator(".chart svg.main-svg").count() >= 2, "plotly drew no charts"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")
        assert watch.problems == []
        assert "token" not in page.url


@pytest.mark.usefixtures("with_kernel")
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_the_widget_of_the_notebook_joins_the_page(
    browser: Browser, place: tuple[Client, World], width: int, scheme: str
) -> None:
    client, _ = place
    with viewer(browser, width, scheme) as context:
        page, watch = visit(context, client)
        page.wait_for_selector(".prd[data-kernel=connected]")
        assert page.locator(".prd").count() == 1
        page.wait_for_selector("[data-charts=drawn]")
        assert page.evaluate(CUT) == []
        assert watch.problems == []


def test_acknowledging_on_one_page_shows_on_another_at_once(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    name = "Both pages"
    world.alert("both", name, Severity.CRITICAL, AlertType.RISK, f"value {EVIL}", 1.0, 0.5)
    with viewer(browser) as ada, viewer(browser, 390, "dark") as bob:
        (first, one), (second, two) = visit(ada, client), visit(bob, client)
        alert = ".alert.open:has(h3:text-is('Both pages'))"
        second.locator(alert).wait_for()
        second.get_by_role("button", name=f"Acknowledge: {name}").click()  # Bob has the form open already
        # Ada uses nothing but the keyboard
        first.get_by_role("button", name=f"Acknowledge: {name}").focus()
        first.keyboard.press("Enter")
        first.keyboard.type("Ada")
        first.keyboard.press("Tab")
        first.keyboard.type(f"on it {EVIL}")
        first.keyboard.press("Enter")
        expect(second.locator(f"{alert} .owned")).to_contain_text("Acknowledged by Ada", timeout=2000)
        expect(second.locator(f"{alert} .owned")).to_contain_text(f"on it {EVIL}")
        expect(first.locator(f"{alert} form")).to_be_hidden()
        assert one.problems == two.problems == []
        assert first.evaluate("window.hacked") is second.evaluate("window.hacked") is None


def test_who_was_first_is_said_to_the_second(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    key = world.alert("late", "Too late", Severity.HIGH, AlertType.RISK, "late", 1.0, 0.5)
    with viewer(browser) as context:
        page, _ = visit(context, client)
        page.get_by_role("button", name="Acknowledge: Too late").click()
        form = page.locator(".alert.open:has(h3:text-is('Too late')) form")
        form.get_by_label("Your name").fill("Bob")
        # between opening the form and sending it, somebody else is quicker; this page hears of it with the refusal
        page.route("**/api/v1/snapshot*", lambda route: route.abort())
        page.evaluate("document.querySelectorAll('.prd')[0].dataset.frozen = '1'")
        assert client.post(f"/api/v1/alerts/{key}/acknowledge", {"who": "Ada"}).status == 200
        form.get_by_role("button", name="Acknowledge").click()
        expect(form.locator(".pr-problem")).to_contain_text("Already acknowledged by Ada")


def test_an_alert_is_silenced_from_its_card_and_heard_again(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    key = world.alert("quiet", "Quiet please", Severity.HIGH, AlertType.RISK, f"value {EVIL}", 0.3, 0.2)
    card = ".alert.open:has(h3:text-is('Quiet please'))"
    with viewer(browser) as ada, viewer(browser, 390, "dark") as bob:
        (first, one), (second, two) = visit(ada, client), visit(bob, client)
        first.locator(card).get_by_role("button", name="Acknowledge: Quiet please").click()
        first.get_by_label("Your name").locator("visible=true").fill("Ada")
        first.locator(card).get_by_label("For").select_option(label="4 hours")
        first.locator(card).get_by_role("button", name="Acknowledge", exact=True).click()
        expect(second.locator(f"{card} .owned")).to_contain_text("until", timeout=2000)
        # nothing but the keyboard from here
        first.locator(f"{card} summary").focus()
        first.keyboard.press("Enter")
        first.keyboard.press("Tab")
        expect(first.locator(card).get_by_role("button", name="Silence: Quiet please")).to_be_focused()
        first.keyboard.press("Enter")
        first.keyboard.type(f"known {EVIL}")  # her name is remembered, so the reason comes first
        first.keyboard.press("Enter")
        expect(second.locator(f"{card} .flags")).to_contain_text("Silenced until", timeout=2000)
        expect(first.locator(card).get_by_role("button", name="Silence: Quiet please")).to_be_focused()
        second.locator(f"{card} summary").click()
        expect(second.locator(f"{card} .history")).to_contain_text("Acknowledged by Ada")
        second.locator(".silences > summary").click()
        silence = second.locator(".silence", has_text="Quiet please, up to high")
        expect(silence).to_contain_text(f"Ada: “known {EVIL}”")
        silence.get_by_role("button", name="End the silence: Quiet please").click()
        silence.get_by_label("Your name").fill("Bob")
        assert [page.evaluate(CUT) for page in (first, second)] == [[], []]  # with everything open
        silence.get_by_role("button", name="End the silence", exact=True).click()
        expect(first.locator(f"{card} .flags")).to_be_hidden(timeout=2000)
        expect(second.locator(".silences")).to_be_hidden()
        assert one.problems == two.problems == []
        assert first.evaluate("window.hacked") is second.evaluate("window.hacked") is None
    kinds = [(event.kind, event.who) for event in AlertDesk(world.store, "main").events() if event.who]
    assert kinds[-3:] == [("acknowledged", "Ada"), ("silenced", "Ada"), ("unsilenced", "Bob")]
    lasts = StoreSink(world.store, "main").load()[key]
    assert lasts.acknowledged_until and lasts.acknowledged_until - lasts.acknowledged_at == timedelta(hours=4)


def test_names_and_comments_are_never_markup(browser: Browser, place: tuple[Client, World]) -> None:
    client, _ = place
    with viewer(browser) as context:
        page, watch = visit(context, client)
        page.wait_for_selector("[data-charts=drawn]")
        expect(page.locator("#positions tbody")).to_contain_text(EVIL)
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("window.hacked") is None
        assert watch.problems == []


def test_a_dead_engine_is_seen(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    world.beat(age=300)
    try:
        with viewer(browser) as context:
            page, _ = visit(context, client)
            expect(page.locator(".banner")).to_contain_text("no heartbeat since")
            expect(page.locator("[data-fact=engine] dd")).to_have_text("Stale")
            assert "stale" in page.title()
            world.beat()
            expect(page.locator(".banner")).to_be_hidden(timeout=5000)
            world.beat(state="halted", detail="disk full")
            expect(page.locator(".banner")).to_contain_text("disk full", timeout=5000)
    finally:
        world.beat()


def test_what_was_not_delivered_is_seen_and_how_old_the_verdicts_are(
    browser: Browser, place: tuple[Client, World]
) -> None:
    client, world = place
    sink, now = StoreSink(world.store, world.name), datetime.now(UTC)
    told = Notice(world.name, f"[HIGH] main: {EVIL}", Severity.HIGH, ("HIGH x",), now, "browser")
    with viewer(browser) as context:
        page, watch = visit(context, client)
        panel = page.locator("#alerts")
        expect(panel.locator(".undelivered")).to_be_hidden()
        sink.post(told, ["slack", "email"], now)
        world.checked(age=7)
        expect(panel.locator(".checked")).to_contain_text(re.compile(r"last check ([7-9]|\d\d) s ago$"), timeout=5000)
        sink.give_up(sink.pending(now, "slack")[0].id, f"HTTP 410 {EVIL}", now, {})
        (mail,) = sink.pending(now, "email")
        sink.failed(mail.id, "451 greylisted", now + timedelta(minutes=5))
        summary = panel.locator(".undelivered summary")
        expect(summary).to_have_text("Not delivered (1) · trying again: email", timeout=5000)
        summary.click()
        expect(panel.locator(".undelivered li")).to_contain_text(["email: 1 waiting", "slack: [HIGH] main: <img"])
        assert page.evaluate("window.hacked") is None and page.evaluate(CUT) == []
        world.checked(age=4000)
        expect(panel.locator(".checked[data-late]")).to_contain_text("⚠ last check", timeout=5000)
        (letter,) = sink.dead()
        sink.drop(letter.id)
        sink.delivered(mail.id)
        world.checked()
        expect(panel.locator(".undelivered")).to_be_hidden(timeout=5000)
        assert watch.problems == []


def kernels_of_this_process() -> list[int]:
    """Processes of notebook kernels that this test process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if b"ipykernel_launcher" in words and parent == os.getpid():
            found.append(int(entry.name))
    return found


@pytest.mark.usefixtures("with_kernel")
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the kernel's process")
def test_the_page_outlives_its_kernel(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    world.beat()
    with viewer(browser) as context:
        page, _ = visit(context, client)
        page.wait_for_selector(".prd[data-kernel=connected]")
        kernels = kernels_of_this_process()
        assert kernels
        for process in kernels:
            os.kill(process, signal.SIGKILL)
        world.alert("afterwards", "After the kernel", Severity.LOW, AlertType.RISK, "still alive", 1.0, 0.5)
        expect(page.locator(".alert.open h3", has_text="After the kernel")).to_be_visible(timeout=5000)
        page.get_by_role("button", name="Acknowledge: After the kernel").click()
        page.locator("form.act:visible").get_by_label("Your name").fill("Ada")
        page.locator("form.act:visible").get_by_role("button", name="Acknowledge").click()
        expect(page.locator(".owned", has_text="Ada").last).to_be_visible()


def test_an_update_leaves_focus_scroll_and_typing_alone(browser: Browser, place: tuple[Client, World]) -> None:
    client, world = place
    world.alert("typing", "While typing", Severity.HIGH, AlertType.RISK, "patience", 1.0, 0.5)
    with viewer(browser) as context:
        page, _ = visit(context, client)
        page.get_by_role("button", name="Acknowledge: While typing").click()
        form = page.locator("form.act:visible")
        form.get_by_label("Comment").fill("half a sen")
        top = page.evaluate("(scrollTo(0, 150), scrollY)")
        before = world.store.revision()
        world.alert("another", "Arrives meanwhile", Severity.CRITICAL, AlertType.RISK, "now", 1.0, 0.5)
        assert world.store.revision() > before
        page.locator(".alert.open h3", has_text="Arrives meanwhile").wait_for()
        form.get_by_label("Comment").press_sequentially("tence")
        assert form.get_by_label("Comment").input_value() == "half a sentence"
        assert page.evaluate("scrollY") == top
        page.keyboard.press("Escape")
        expect(form).to_have_count(0)


def test_the_window_is_in_the_address(browser: Browser, place: tuple[Client, World]) -> None:
    client, _ = place
    with viewer(browser) as context:
        page, _ = visit(context, client, "&window=30d")
        expect(page.locator("[data-window='30d']")).to_have_attribute("aria-pressed", "true")
        page.get_by_role("button", name="180d").click()
        expect(page.locator("#card-window h2")).to_have_text("P&L, 180 days")
        assert "window=180d" in page.url
        page.reload(wait_until="commit")
        expect(page.locator("#card-window h2")).to_have_text("P&L, 180 days")


def test_colours_can_be_chosen_and_are_remembered(browser: Browser, place: tuple[Client, World]) -> None:
    client, _ = place
    with viewer(browser) as context:
        page, _ = visit(context, client)
        page.get_by_role("button", name="Light or dark colours").click()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.reload(wait_until="commit")
        expect(page.locator("#card-value .value")).to_contain_text("$")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 16, 21)"


def test_an_unknown_portfolio_is_explained(browser: Browser, place: tuple[Client, World]) -> None:
    client, _ = place
    with viewer(browser) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{client.port}/?token={client.token}&portfolio=nobody", wait_until="commit")
        expect(page.locator(".notice")).to_contain_text("unknown portfolio 'nobody'")
        expect(page.locator(".notice")).to_contain_text("known: main")


def test_metrics_explain_themselves_and_tables_sort(browser: Browser, place: tuple[Client, World]) -> None:
    client, _ = place
    with viewer(browser) as context:
        page, _ = visit(context, client)
        sharpe = page.locator("#metrics details", has_text="Sharpe ratio")
        sharpe.locator("summary").click()
        expect(sharpe.locator("code")).to_have_text("definition of sharpe ratio")
        page.locator("#positions").get_by_role("button", name="Asset").click()
        names = page.locator("#positions tbody th").all_inner_texts()
        assert names == sorted(names)
        expect(page.locator("#metrics details", has_text="Alpha").locator(".value")).to_have_text("–")


def test_a_server_that_stops_is_noticed_and_its_return_too(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    with viewer(browser, 390) as context:
        with dashboard() as (client, world):
            page, _ = visit(context, client)
            world.beat()
        expect(page.locator(".banner")).to_contain_text("Not connected", timeout=15_000)
        expect(page.locator("[data-fact=link] dd")).to_have_text("Disconnected")
        with running(world.settings):
            expect(page.locator("[data-fact=link] dd")).to_have_text("Live", timeout=20_000)
            expect(page.locator(".banner")).to_be_hidden()


def test_before_the_first_bar_the_page_says_so(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboard_server import free_port
    from dashboard_world import settings_at

    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    settings = settings_at(free_port())
    with running(settings) as client, viewer(browser, 390) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{client.port}/?token={client.token}", wait_until="commit")
        expect(page.locator(".notice")).to_contain_text("portfolio-research run")
        world = World(settings)
        expect(page.locator("#card-value .value")).to_contain_text("$", timeout=SLOW)
        key = next(iter(StoreSink(world.store, "main").load()))
        StoreSink(world.store, "main").acknowledge(key, "Ada", "from the command line", world.now)
        expect(page.locator(".owned", has_text="from the command line")).to_be_visible()
        world.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1440, "light")])
def test_a_simulated_market_says_so_beside_the_name(
    browser: Browser, place: tuple[Client, World], width: int, scheme: str
) -> None:
    client, world = place
    with viewer(browser, width, scheme) as context:
        page, watch = visit(context, client)
        badge = page.locator(".strip .badge.simulated")
        assert badge.count() == 1 and not badge.is_visible()
        with world.called("SIMULATED market, seed 0"):
            page.reload()
            expect(badge).to_be_visible(timeout=SLOW)
            expect(badge).to_have_text("SIMULATED")
            expect(page.locator("[data-fact=source] dd")).to_have_text("SIMULATED market, seed 0")
            assert "SIMULATED main" in page.title()
            page.wait_for_selector("[data-charts=drawn]")
            assert page.evaluate(CUT) == [] and watch.problems == []
