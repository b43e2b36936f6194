"""The dashboard's server: what it answers, what it refuses, and to whom."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import pytest
import tornado.websocket
from dashboard_server import Client, dashboard, free_port, running
from dashboard_world import World, settings_at
from tornado.httpclient import HTTPRequest

from portfolio_research.alerts import AlertType, Notice, Severity
from portfolio_research.config import ConfigError, DashboardSettings, StoreError, portfolio_home
from portfolio_research.dashboard import access, backend, live, pages
from portfolio_research.dashboard.access import address
from portfolio_research.dashboard.server import open_port
from portfolio_research.settings import load_settings
from portfolio_research.store import Store
from portfolio_research.store.alerts import AlertDesk
from portfolio_research.store.outbox import StoreSink


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, World]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path_factory.mktemp("home")))
        with dashboard() as (client, world):
            yield client, world


@pytest.fixture
def client(place: tuple[Client, World]) -> Client:
    return place[0]


@pytest.fixture
def world(place: tuple[Client, World]) -> World:
    return place[1]


def alert_in(world: World, rule: str) -> str:
    return world.alert(rule, "Drawdown", Severity.HIGH, AlertType.DRAWDOWN, "Drawdown 16 %", 0.16, 0.15)


# What it answers


def test_snapshot_is_the_picture_of_the_store(client: Client, world: World) -> None:
    answer = client.get("/api/v1/snapshot?portfolio=main&window=30d")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    picture = answer.json
    assert (picture["schema"], picture["portfolio"], picture["window"]) == (1, "main", "30d")
    assert len(picture["positions"]) == 20
    assert picture["overview"]["equity"] == pytest.approx(
        sum(p["value"] for p in picture["positions"]) + picture["overview"]["cash"]
    )
    assert {alert["type"] for alert in picture["alerts"]["active"]} >= {"drawdown", "risk", "volatility"}
    assert picture["rebalancing"]["recommendations"][0]["use_twap"] is True


def test_windows_differ_and_an_unknown_one_is_refused(client: Client) -> None:
    short, everything = (client.get(f"/api/v1/snapshot?window={w}").json for w in ("30d", "all"))
    assert len(short["equity"]["t"]) < len(everything["equity"]["t"])
    refused = client.get("/api/v1/snapshot?window=7w")
    assert refused.status == 400
    assert refused.json == {"error": "unknown window '7w'", "remedy": "choose one of 30d, 90d, 180d, 1y, all"}


def test_unknown_portfolio_names_the_known_ones(client: Client) -> None:
    refused = client.get("/api/v1/snapshot?portfolio=nobody")
    assert refused.status == 404
    assert "nobody" in refused.json["error"]
    assert refused.json["portfolios"] == ["main"]
    assert "main" in refused.json["remedy"]


def test_alerts_alone(client: Client) -> None:
    answer = client.get("/api/v1/alerts").json
    assert answer["portfolio"] == "main"
    assert [alert["state"] for alert in answer["recent"]] == ["resolved"]
    assert client.get("/api/v1/alerts?portfolio=nobody").status == 404


def test_health_tells_of_engine_and_portfolios(client: Client, world: World) -> None:
    world.beat()
    health = client.get("/api/v1/health").json
    assert health["dashboard"] == "running"
    assert health["portfolios"] == ["main"]
    assert health["engine"]["state"] == "running"
    assert client.get("/api/v1/health?portfolio=nobody").json["engine"]["state"] == "never started"


def test_a_silent_engine_is_stale(client: Client, world: World) -> None:
    world.beat(age=3600)
    time.sleep(live.SNAPSHOT_SECONDS)
    assert client.get("/api/v1/snapshot").json["engine"]["state"] == "stale"
    world.beat()


def test_addresses_that_do_not_exist(client: Client) -> None:
    for path in ("/api/v1/nothing", "/api/v1/"):
        answer = client.get(path)
        assert (answer.status, set(answer.json)) == (404, {"error", "remedy"})
    assert client.get("/nothing").status == 404
    assert client.get("/api/v1/alerts/x/acknowledge").status == 405


# Acting on alerts


def test_acknowledge_twice_says_who_was_first(client: Client, world: World) -> None:
    path = f"/api/v1/alerts/{alert_in(world, 'ack-twice')}/acknowledge"
    first = client.post(path, {"who": "  Ada ", "comment": "looking"})
    assert first.status == 200
    assert (first.json["alert"]["acknowledged_by"], first.json["alert"]["comment"]) == ("Ada", "looking")
    second = client.post(path, {"who": "Bob"})
    assert second.status == 409
    assert second.json["acknowledged_by"] == "Ada"
    when = datetime.fromisoformat(second.json["acknowledged_at"])
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60


def test_an_acknowledgement_may_end(client: Client, world: World) -> None:
    key = alert_in(world, "ack-for")
    alert = client.post(f"/api/v1/alerts/{key}/acknowledge", {"who": "Ada", "hours": 4}).json["alert"]
    until, at = (datetime.fromisoformat(alert[name]) for name in ("acknowledged_until", "acknowledged_at"))
    assert until - at == timedelta(hours=4)
    key = alert_in(world, "ack-until")
    wanted = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%dT%H:%M:00Z}"
    alert = client.post(f"/api/v1/alerts/{key}/acknowledge", {"who": "Ada", "until": wanted}).json["alert"]
    assert alert["acknowledged_until"] == wanted


def test_resolve_closes_the_alert(client: Client, world: World) -> None:
    key = alert_in(world, "close-me")
    answer = client.post(f"/api/v1/alerts/{key}/resolve", {"who": "Ada", "comment": "hedged"})
    assert answer.json["alert"]["state"] == "resolved"
    assert key in [alert["id"] for alert in client.get("/api/v1/alerts").json["recent"]]
    again = client.post(f"/api/v1/alerts/{key}/resolve", {"who": "Bob"})
    assert (again.status, again.json["state"]) == (409, "resolved")


def test_one_alert_comes_with_its_whole_history(client: Client, world: World) -> None:
    key = alert_in(world, "whole")
    client.post(f"/api/v1/alerts/{key}/acknowledge", {"who": "Ada", "comment": "looking"})
    client.post(f"/api/v1/alerts/{key}/resolve", {"who": "Bob", "comment": "hedged"})
    alert = client.get(f"/api/v1/alerts/{key}").json["alert"]
    assert (alert["id"], alert["rule"], alert["peak"]) == (key, "whole", 0.16)
    told = [(event["kind"], event["who"], event["comment"]) for event in alert["history"]]
    assert told == [("acknowledged", "Ada", "looking"), ("resolved", "Bob", "hedged")]  # the audit: who, what, when
    assert all(datetime.fromisoformat(event["at"]).tzinfo for event in alert["history"])
    assert client.get("/api/v1/alerts/feedbeef").status == 404
    assert client.get(f"/api/v1/alerts/{key}?portfolio=nobody").status == 404


def test_a_silence_is_made_listed_and_ended_once(client: Client, world: World) -> None:
    asked = {"who": "Ada", "comment": "expiry day", "hours": 2, "rule": "volatility", "max_severity": "medium"}
    made = client.post("/api/v1/silences", asked).json["silence"]
    assert made.items() >= {"who": "Ada", "comment": "expiry day", "max_severity": "medium", "everywhere": False}.items()
    listed = client.get("/api/v1/silences").json
    assert made in listed["silences"] and listed["portfolio"] == "main"
    alerts = client.get("/api/v1/alerts").json
    held = {alert["rule"]: alert["silenced_until"] for alert in alerts["active"]}
    assert (held["volatility"], held["drawdown"]) == (made["ends"], None)
    path = f"/api/v1/silences/{made['id']}/end"
    assert client.post(path, {"who": "Bob", "comment": "back"}).status == 200
    again = client.post(path, {"who": "Cem"})
    assert (again.status, again.json["ended_by"]) == (409, "Bob")
    assert made["id"] not in [one["id"] for one in client.get("/api/v1/silences").json["silences"]]
    audit = AlertDesk(world.store, "main").events(made["id"])
    assert [(event.kind, event.who, event.comment) for event in audit] == [
        ("silenced", "Ada", "expiry day"),
        ("unsilenced", "Bob", "back"),
    ]
    assert client.post("/api/v1/silences/feedbeef/end", {"who": "Ada"}).status == 404
    assert client.get("/api/v1/silences?portfolio=nobody").status == 404


def test_a_message_that_never_arrived_is_sent_again_or_forgotten(client: Client, world: World) -> None:
    sink, now = StoreSink(world.store, "main"), datetime.now(UTC)
    for key in "ab":
        sink.post(Notice("main", "[HIGH] main: deep", Severity.HIGH, ("deep",), now, f"k:{key}"), ["slack"], now)
    for item in sink.pending(now, "slack"):
        sink.give_up(item.id, "HTTP 410", now, {})
    first, second = client.get("/api/v1/letters").json["letters"]
    assert first.items() >= {"handler": "slack", "title": "[HIGH] main: deep", "error": "HTTP 410", "attempts": 1}.items()
    assert client.post(f"/api/v1/letters/{first['id']}/retry", {"who": "Ada", "comment": "key renewed"}).status == 200
    assert client.post(f"/api/v1/letters/{second['id']}/drop", {"who": "Bob"}).json["letter"]["id"] == second["id"]
    assert client.get("/api/v1/letters").json["letters"] == []
    assert [item.id for item in sink.pending(datetime.now(UTC), "slack")] == [first["id"]]
    assert [(event.kind, event.who) for event in sink.events()][-2:] == [("retried", "Ada"), ("dropped", "Bob")]
    assert client.post(f"/api/v1/letters/{first['id']}/drop", {"who": "Cem"}).status == 404
    assert client.post(f"/api/v1/letters/{first['id']}/drop", {"who": ""}).status == 400
    assert client.get("/api/v1/letters?portfolio=nobody").status == 404
    sink.delivered(first["id"])


def test_a_test_message_is_sent_once_and_noted(client: Client, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    log = portfolio_home(world.settings) / "alerts.log"
    assert client.post("/api/v1/channels/test", {"who": "Ada", "channel": "email"}).json["remedy"] == "there is: log"
    assert not log.exists()
    told = client.post("/api/v1/channels/test", {"who": "Ada"})
    assert told.json == {"channels": {"log": {"arrived": True, "error": ""}}}
    assert "This is a test" in log.read_text()
    assert client.post("/api/v1/channels/test", {"who": "Eve"}).status == 429
    event = StoreSink(world.store, "main").events("channels")[-1]
    assert (event.kind, event.who, event.message) == ("tested", "Ada", "log: arrived")
    monkeypatch.setattr(backend, "TEST_PAUSE", timedelta(0))

    def unset(*_: object) -> None:
        raise ConfigError("PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL is missing")

    monkeypatch.setattr(backend, "configured_handlers", unset)
    answer = client.post("/api/v1/channels/test", {"who": "Ada"})
    assert (answer.status, "WEBHOOK_URL is missing" in answer.json["error"]) == (409, True)


def _days(number: float) -> str:
    return f"{datetime.now(UTC) + timedelta(days=number):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not a JSON object"),
        ([1], "not a JSON object"),
        ({}, "'who'"),
        ({"who": "  "}, "'who'"),
        ({"who": "x" * 81}, "'who'"),
        ({"who": "Ada\0"}, "'who'"),
        ({"who": "Ada", "comment": "x" * 501}, "'comment'"),
        ({"who": "Ada", "comment": 5}, "'comment'"),
        ({"who": "Ada", "comment": "\ud800"}, "'comment'"),
        ({"who": "Ada", "untill": "2030-01-01"}, "unknown field 'untill'"),
        ({"who": "Ada", "until": "soon"}, "'until' is no time"),
        ({"who": "Ada", "until": 5}, "'until' is no time"),
        ({"who": "Ada", "until": "0001-01-01T00:00:00+23:59"}, "'until'"),
        ({"who": "Ada", "until": _days(-1)}, "past, or too far"),
        ({"who": "Ada", "until": _days(31)}, "past, or too far"),
        ({"who": "Ada", "until": _days(1), "hours": 4}, "exclude each other"),
        ({"who": "Ada", "hours": 0}, "'hours'"),
        ({"who": "Ada", "hours": 721}, "'hours'"),
        ({"who": "Ada", "hours": True}, "'hours'"),
        ({"who": "Ada", "hours": "4"}, "'hours'"),
        (b'{"who": "Ada", "hours": NaN}', "'hours'"),
        (b'{"who": "Ada", "hours": 1e999}', "'hours'"),
    ],
)
def test_an_unusable_request_changes_nothing(client: Client, world: World, body: object, said: str) -> None:
    key = client.get("/api/v1/alerts").json["active"][0]["id"]
    refused(client, world, f"/api/v1/alerts/{key}/acknowledge", body, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"comment": " "}, "'comment' is missing"),
        ({"hours": None}, "'hours' is missing"),
        ({"rule": "drawdwn"}, "did you mean drawdown?"),
        ({"rule": ["drawdown"]}, "'rule'"),
        ({"subject": "x" * 81}, "'subject'"),
        ({"max_severity": "awful"}, "'max_severity' is no severity"),
        ({"max_severity": ["low"]}, "'max_severity' is no severity"),
        ({"everywhere": "yes"}, "'everywhere' is neither"),
        ({"portfolio": "other"}, "unknown field"),
    ],
)
def test_an_unusable_silence_holds_nothing_back(
    client: Client, world: World, change: dict[str, object], said: str
) -> None:
    refused(client, world, "/api/v1/silences", {"who": "Ada", "comment": "x", "hours": 1, **change}, said)


def refused(client: Client, world: World, path: str, body: object, said: str) -> None:
    before = world.store.revision()
    answer = client.post(path, body)
    assert answer.status == 400
    assert said in answer.json["error"]
    assert answer.json["remedy"]
    assert world.store.revision() == before


def test_acknowledging_what_is_not_there(client: Client) -> None:
    assert client.post("/api/v1/alerts/feedbeef/acknowledge", {"who": "Ada"}).status == 404
    assert client.post("/api/v1/alerts/feedbeef/acknowledge?portfolio=no", {"who": "Ada"}).status == 404


# Who may


@pytest.mark.parametrize(
    "path", [f"/api/v1/{name}" for name in ("snapshot", "stream", "alerts", "alerts/x", "silences", "letters", "health", "x")]
)
def test_no_token_no_data(client: Client, path: str) -> None:
    answer = client.get(path, token=False)
    assert (answer.status, set(answer.json)) == (401, {"error", "remedy"})
    assert client.get(path, token=False, Authorization="token wrong").status == 401


@pytest.mark.parametrize("path", ["/", "/reports/r.html", "/nothing"])
def test_no_token_leads_to_the_login(client: Client, path: str) -> None:
    answer = client.get(path, token=False)
    assert answer.status == 302
    assert answer.headers["Location"].startswith("/login?next=")


def test_the_token_in_the_link_becomes_a_cookie(client: Client) -> None:
    answer = client.get("/?" + urlencode({"portfolio": "main", "window": "30d", "token": client.token}), token=False)
    assert answer.status == 302
    assert answer.headers["Location"] == "/?portfolio=main&window=30d"
    assert client.token not in answer.cookies
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert client.get("/api/v1/snapshot", token=False, Cookie=answer.cookies).status == 200


def test_login_form(client: Client) -> None:
    form = client.get("/login?next=%2F%3Fwindow%3D1y", token=False)
    assert form.status == 200
    xsrf = re.search(rb'name="_xsrf" value="([^"]+)"', form.body)
    assert xsrf
    post = {"token": False, "Cookie": form.cookies, "Content_Type": "application/x-www-form-urlencoded"}
    wrong = client.post("/login", urlencode({"token": "guess", "_xsrf": xsrf[1].decode()}).encode(), **post)
    assert (wrong.status, b"not the token" in wrong.body) == (401, True)
    right = client.post(
        "/login?next=%2F%3Fwindow%3D1y", urlencode({"token": client.token, "_xsrf": xsrf[1].decode()}).encode(), **post
    )
    assert (right.status, right.headers["Location"]) == (302, "/?window=1y")
    assert client.get("/login", token=False, Cookie=right.cookies).headers["Location"] == "/"
    assert client.post("/login", urlencode({"token": "guess"}).encode(), **post).status == 403


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example/", "/\\evil.example", "/login"])
def test_the_login_leads_nowhere_else(client: Client, target: str) -> None:
    answer = client.get("/login?" + urlencode({"next": target}))
    assert answer.headers["Location"] == "/"


@pytest.mark.parametrize("path", ["/", "/api/v1/snapshot", "/api/v1/stream", "/login"])
def test_a_foreign_host_name_is_refused(client: Client, path: str) -> None:
    """DNS rebinding: a page elsewhere that has its own name point at this machine."""
    assert client.get(path, Host="attacker.example").status == 403
    assert client.get(path, Host=f"attacker.example:{client.port}").status == 403


def test_a_change_from_a_browser_needs_the_xsrf_cookie(client: Client, world: World) -> None:
    path = f"/api/v1/alerts/{alert_in(world, 'xsrf')}/acknowledge"
    session = client.get(f"/?token={client.token}", token=False).cookies
    assert client.post(path, {"who": "Eve"}, token=False, Cookie=session).status == 403
    silent = {"who": "Eve", "comment": "x", "hours": 1}
    assert client.post("/api/v1/silences", silent, token=False, Cookie=session).status == 403
    assert client.post(path, {"who": "Eve"}, token=False, Cookie=session, Origin="http://evil.example").status in (
        403,
        404,
    )
    page = client.get("/login", token=False)
    xsrf = re.search(r"_xsrf=([^;]+)", page.cookies)
    assert xsrf
    both = f"{session}; _xsrf={xsrf[1]}"
    assert client.post(path, {"who": "Ada"}, token=False, Cookie=both, X_XSRFToken=xsrf[1]).status == 200


def test_headers_close_the_page(client: Client) -> None:
    for path in (
        "/login",
        "/api/v1/snapshot",
        "/reports/none.html",
        f"/dashboard/static/{pages.asset_version()}/boot.js",
    ):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/reports/../token",
        "/reports/..%2ftoken",
        "/reports/%2e%2e/token",
        "/reports/..%2f..%2fmain%2ftoken",
        "/reports//etc/passwd",
        "/dashboard/static/../access.py",
        "/dashboard/static/..%2faccess.py",
        "/voila/files/portfolio.ipynb",
        "/voila/files/..%2ftoken",
        "/voila/static/../../../../../etc/passwd",
        "/voila/templates/..%2f..%2f..%2fetc/passwd",
        "/token",
        "/portfolio.db",
        "/voila/labextensions/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/reports/secret.txt",
        "/reports/.hidden.html",
        "/reports/away.html",
    ],
)
def test_no_file_but_those_meant_to_be_seen(client: Client, world: World, path: str) -> None:
    folder = portfolio_home(world.settings) / "reports"
    folder.mkdir(exist_ok=True)
    (folder / "secret.txt").write_text("secret")
    (folder / ".hidden.html").write_text("secret")
    if not (folder / "away.html").is_symlink():
        (folder / "away.html").symlink_to(folder.parent / "token")
    answer = client.get(path)
    assert answer.status in (302, 403, 404, 500), answer.body[:200]
    for secret in (client.token.encode(), b"root:", b"secret", b"SQLite format", b"compare_digest"):
        assert secret not in answer.body


def test_reports_are_shown_but_run_nothing(client: Client, world: World) -> None:
    folder = portfolio_home(world.settings) / "reports" / "2020"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rebalancing-2020-03-16.html").write_text("<h1>Report</h1>")
    answer = client.get("/reports/2020/rebalancing-2020-03-16.html")
    assert (answer.status, answer.body) == (200, b"<h1>Report</h1>")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "script-src" not in answer.headers["Content-Security-Policy"]


# Files of the page


def test_files_of_the_page_are_kept_for_good_under_their_version(client: Client) -> None:
    version = pages.asset_version()
    kept = client.get(f"/dashboard/static/{version}/dashboard.js", token=False)
    assert kept.status == 200
    assert "immutable" in kept.headers["Cache-Control"]
    for other in ("/dashboard/static/dashboard.js", "/dashboard/static/000000000000/dashboard.js"):
        assert client.get(other, token=False).headers["Cache-Control"] == "no-cache"
    assert client.get("/dashboard/static/missing.js", token=False).status == 404


def test_charts_come_from_the_installed_plotly(client: Client) -> None:
    packed = client.get(f"/dashboard/static/{pages.asset_version()}/plotly.min.js", token=False, Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "immutable" in packed.headers["Cache-Control"]
    assert gzip.decompress(packed.body) == pages.plotly_script()
    assert client.get("/dashboard/static/plotly.min.js", token=False).body == pages.plotly_script()


def test_our_own_files_stay_small() -> None:
    static = [path.read_bytes() for path in (pages.HERE / "static").iterdir()]
    assert sum(len(gzip.compress(text)) for text in static) <= 60_000


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    for path in [*(pages.HERE / "static").iterdir(), *(pages.HERE / "template").iterdir()]:
        found = re.findall(
            r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text(encoding="utf-8").replace("http://www.w3.org", "")
        )
        assert not found, (path.name, found)
        assert "innerHTML" not in path.read_text(encoding="utf-8")


# The event stream


def events(client: Client, stop: int) -> Iterator[str]:
    """Lines of the stream, at most `stop`."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as wire:
        wire.sendall(
            f"GET /api/v1/stream HTTP/1.0\r\nHost: localhost\r\nAuthorization: token {client.token}\r\n\r\n".encode()
        )
        for number, line in enumerate(wire.makefile("r", encoding="utf-8")):
            yield line.rstrip()
            if number >= stop:
                return


def test_each_write_is_pushed(client: Client, world: World) -> None:
    seen: list[int] = []
    for line in events(client, 200):
        if line.startswith("data: "):
            seen.append(json.loads(line.removeprefix("data: "))["revision"])
            if len(seen) == 1:
                world.beat()
            elif seen[-1] >= world.store.revision():
                break
    assert len(seen) >= 2
    assert seen == sorted(set(seen))


def test_an_idle_stream_beats(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from portfolio_research.dashboard import api

    monkeypatch.setattr(api, "BEAT_SECONDS", 0.1)
    assert any(line == ": beat" for line in events(client, 40))


def test_a_full_stream_refuses_in_json(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_WATCHERS", 0)
    answer = client.get("/api/v1/stream")
    assert (answer.status, set(answer.json)) == (503, {"error", "remedy"})


def test_a_slow_watcher_skips_revisions_instead_of_piling_them_up() -> None:
    async def scenario() -> None:
        revisions = iter(range(1, 100))
        with ThreadPoolExecutor(1) as pool:
            hub = live.Hub(lambda: next(revisions), pool)
            async with hub.watch() as queue:
                for _ in range(50):
                    await hub.look()
                assert queue.qsize() == 1
                assert await queue.get() == 50
            assert hub.watchers == 0

    asyncio.run(scenario())


def test_a_store_that_fails_for_a_while_stops_nothing() -> None:
    async def scenario() -> None:
        answers: list[int | Exception] = [StoreError("locked"), StoreError("locked"), 7]

        def read() -> int:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        with ThreadPoolExecutor(1) as pool:
            hub = live.Hub(read, pool)
            for expected in (0, 0, 7):
                await hub.look()
                assert hub.revision == expected

    asyncio.run(scenario())


def test_viewers_share_one_computation_until_the_store_changes() -> None:
    async def scenario() -> None:
        built: list[str] = []
        with ThreadPoolExecutor(2) as pool:
            hub = live.Hub(lambda: 1, pool)
            snapshots = live.Snapshots(lambda portfolio, window: {"n": built.append(window) or len(built)}, hub, pool)
            answers = await asyncio.gather(*(snapshots.get("main", "90d") for _ in range(10)))
            assert set(answers) == {b'{"n":1}'}
            hub.revision = 2
            assert await snapshots.get("main", "90d") == b'{"n":2}'

    asyncio.run(scenario())


def test_a_failed_computation_is_not_kept() -> None:
    async def scenario() -> None:
        results: list[Exception | dict[str, int]] = [StoreError("disk"), ValueError("nan"), {"n": 3}]

        def build(portfolio: str, window: str) -> dict[str, int]:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        with ThreadPoolExecutor(1) as pool:
            snapshots = live.Snapshots(build, live.Hub(lambda: 1, pool), pool)
            for error in (StoreError, ValueError):
                with pytest.raises(error):
                    await snapshots.get("main", "90d")
            assert await snapshots.get("main", "90d") == b'{"n":3}'

    asyncio.run(scenario())


# Kernels


def page_with_kernel(client: Client) -> tuple[str, str]:
    """The page and the id of the kernel behind it."""
    text = client.get("/").body.decode()
    found = re.search(r'"kernelId": "([0-9a-f-]+)"', text)
    assert found, text[-2000:]
    return text, found[1]


def test_the_page_is_there_before_its_kernel_and_holds_one_widget(client: Client) -> None:
    text, _ = page_with_kernel(client)
    assert text.index('id="portfolio-dashboard"') < text.index("jupyter-config-data")
    assert text.count("application/vnd.jupyter.widget-view+json") == 1
    assert client.token not in text
    scripts = re.findall(r"<script\b([^>]*)>", text)
    assert all("src=" in script or "json" in script for script in scripts), "the policy forbids inline scripts"


def test_reloading_does_not_start_kernels_without_end() -> None:
    limits = pages.KernelLimits(alive=2, starting=1)
    assert limits.allow(0)
    assert not limits.allow(2)
    limits.now_starting = 1
    assert not limits.allow(0)


def test_beyond_the_limit_the_page_comes_without_a_kernel(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.KernelLimits, "allow", lambda self, alive: False)
    answer = client.get("/")
    assert answer.status == 200
    assert b"portfolio-dashboard" in answer.body
    assert b"kernelId" not in answer.body


def test_a_viewer_cannot_run_code_in_the_kernel(client: Client, tmp_path: Path) -> None:
    _, kernel = page_with_kernel(client)
    proof = tmp_path / "ran"
    request = {
        "header": {
            "msg_id": "1",
            "msg_type": "execute_request",
            "username": "",
            "session": "s",
            "version": "5.3",
            "date": "",
        },
        "parent_header": {},
        "metadata": {},
        "channel": "shell",
        "buffers": [],
        "content": {
            "code": f"open({str(proof)!r}, 'w')",
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
        },
    }
    info = {**request, "header": {**request["header"], "msg_id": "2", "msg_type": "kernel_info_request"}, "content": {}}

    async def talk() -> list[str]:
        url = f"ws://127.0.0.1:{client.port}/api/kernels/{kernel}/channels"
        wire = await tornado.websocket.websocket_connect(
            HTTPRequest(url, headers={"Authorization": f"token {client.token}"})
        )
        for message in (request, info):
            await wire.write_message(json.dumps(message))
        kinds: list[str] = []
        while "kernel_info_reply" not in kinds:
            answer = await asyncio.wait_for(wire.read_message(), timeout=20)
            assert answer is not None
            kinds.append(json.loads(answer)["msg_type"])
        wire.close()
        return kinds

    kinds = asyncio.run(talk())
    assert "execute_reply" not in kinds
    assert not proof.exists()


def test_kernels_load_neither_arrays_nor_charts() -> None:
    code = (
        "import sys; import portfolio_research.dashboard.widget\n"
        "print(sorted({'numpy','pandas','scipy','sklearn','matplotlib','plotly','sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Starting


def test_a_busy_port_says_what_to_change() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"port {port} is in use; choose another with `dashboard.port` in config.yaml or --port"
        ):
            open_port("127.0.0.1", port)


def test_an_address_that_is_not_ours_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot listen on 192.0.2.1"):
        open_port("192.0.2.1", free_port())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", "::"])
def test_other_machines_only_when_meant(host: str) -> None:
    with pytest.raises(ConfigError, match=r"dashboard\.public: true"):
        access.check_address(load_settings(dashboard={"host": host}))
    access.check_address(load_settings(dashboard={"host": host, "public": True}))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_always(host: str) -> None:
    access.check_address(load_settings(dashboard={"host": host}))


def test_addresses_to_click_on() -> None:
    def shown(**dashboard: object) -> str:
        return address(load_settings(dashboard={"port": 5000, "public": True, **dashboard}), "t")

    assert shown() == "http://127.0.0.1:5000/?token=t"
    assert shown(host="0.0.0.0") == "http://127.0.0.1:5000/?token=t"
    assert shown(host="::1") == "http://[::1]:5000/?token=t"


def test_the_token_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    token = access.ensure_token(tmp_path / "main")
    path = tmp_path / "main" / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) == 48
    path.chmod(0o644)
    assert access.ensure_token(tmp_path / "main") == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("short")
    with pytest.raises(ConfigError, match="delete the file"):
        access.ensure_token(tmp_path / "main")


def test_secrets_do_not_reach_the_kernels() -> None:
    given = {"PATH": "/bin", "PORTFOLIO_RESEARCH_SMTP_PASSWORD": "p", "PORTFOLIO_RESEARCH_SLACK_WEBHOOK_URL": "u"}
    assert access.without_secrets(given) == {"PATH": "/bin"}


def test_before_the_engine_has_ever_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    settings = settings_at(free_port())
    assert isinstance(settings.dashboard, DashboardSettings)
    with running(settings) as client:
        answer = client.get("/api/v1/snapshot")
        assert answer.status == 503
        assert answer.json["state"] == "never started"
        assert "portfolio-research run" in answer.json["remedy"]
        assert client.get("/api/v1/health").json["engine"]["state"] == "never started"
        session = client.get(f"/?token={client.token}", token=False).cookies
    with running(settings) as again:
        assert again.token == client.token
        assert again.get("/api/v1/health", token=False, Cookie=session).status == 200, "sessions outlive a restart"


def test_a_store_that_breaks_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_RESEARCH_HOME", str(tmp_path))
    with dashboard() as (client, world):
        assert client.get("/api/v1/snapshot").status == 200

        def broken(self: Store) -> object:
            raise StoreError("disk is gone")

        monkeypatch.setattr(Store, "read", broken)
        time.sleep(live.SNAPSHOT_SECONDS)
        for path in ("/api/v1/snapshot", "/api/v1/alerts", "/api/v1/health"):
            answer = client.get(path)
            assert (answer.status, answer.json["error"]) == (503, "disk is gone")
        monkeypatch.undo()
