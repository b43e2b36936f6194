"""Tables of alerts for a terminal. On a narrow one, sentences take in what the smaller columns would say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from portfolio_research.config import ChannelSettings
from portfolio_research.sinks import OutboxItem
from portfolio_research.store.alert_view import clock_time, held_back, shown_number

_View = Mapping[str, Any]
_COLOURS = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}


def alert_table(alerts: Sequence[_View], title: str, *, narrow: bool) -> Table:
    """A line for each alert: how bad, since when, who has it, and why people hear nothing of it."""
    table = Table(title=title, show_lines=narrow)
    for column in ("id", "severity") if narrow else ("id", "severity", "type", "state", "since"):
        table.add_column(column, no_wrap=True)
    table.add_column("message", ratio=3)
    if not narrow:
        table.add_column("in hand, held back", ratio=2)
    for alert in alerts:
        head = alert["id"][:8], f"[{_COLOURS[alert['severity']]}]{alert['severity']}[/]"
        day, rest = alert["since"][:10], "\n".join(map(escape, standing(alert)))
        message = escape(alert["message"])
        if narrow:
            table.add_row(*head, "\n".join(filter(None, (message, f"{alert['state']}, in breach since {day}", rest))))
        else:
            table.add_row(*head, alert["type"], alert["state"], day, message, rest)
    return table


def standing(alert: _View) -> Iterator[str]:
    """Who has it in hand, and why people hear nothing of it."""
    if alert["acknowledged_by"]:
        comment = f": {alert['comment']}" if alert["comment"] else ""
        end = f" until {clock_time(alert['acknowledged_until'])}" if alert["acknowledged_until"] else ""
        yield f"acknowledged by {alert['acknowledged_by']}{end}{comment}"
    yield from held_back(alert)


def alert_facts(alert: _View, title: str) -> Table:
    """Everything about one alert but its history, one fact a line."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1)
    for name, value in _facts(alert):
        table.add_row(name, escape(value))
    return table


def _facts(alert: _View) -> Iterator[tuple[str, str]]:
    yield "message", alert["message"]
    yield "state", f"{alert['state']}, {alert['severity']}"
    yield "rule", " ".join(filter(None, (alert["rule"], alert["subject"], f"({alert['type']})")))
    for name, key in (("newest number", "value"), ("limit", "threshold"), ("worst", "peak")):
        yield name, shown_number(alert[key], alert["unit"])
    yield "since", clock_time(alert["since"])
    yield "judged at", clock_time(alert["updated"]) + ("" if alert["judged"] else ", cannot be judged since")
    if alert["told"]:
        yield "told", f"{alert['told']}, last at {clock_time(alert['told_at'])}"
    elif alert["state"] in ("firing", "acknowledged", "recovering"):
        yield "told", "nobody yet"
    if alert["acknowledged_by"]:
        yield "acknowledged", f"by {alert['acknowledged_by']} at {clock_time(alert['acknowledged_at'])}"
        yield "until", clock_time(alert["acknowledged_until"])
    if alert["comment"]:
        yield "comment", alert["comment"]
    for why in held_back(alert):
        yield "held back", why
    for one in alert["silences"]:
        yield "silence", f"{one['id'][:8]} by {one['who']}: {one['comment']}"


def history_table(events: Sequence[_View], *, narrow: bool) -> Table:
    """What happened to an alert, oldest first."""
    table = Table(title="History, times UTC", title_justify="left", show_lines=narrow)
    for column in ("when", "what") if narrow else ("when", "what", "severity", "who"):
        table.add_column(column, no_wrap=not narrow or column == "when")
    table.add_column("message", ratio=1)
    for event in events:
        when, what = clock_time(event["at"]).removesuffix(" UTC"), event["what"]
        said = escape(f"“{event['comment']}”" if event["comment"] else "" if event["who"] else event["message"])
        if narrow:
            table.add_row(when, escape(what), escape(f"{event['who']} ") * bool(event["who"]) + said)
        else:
            table.add_row(when, escape(what), event["severity"], escape(event["who"]), said)
    return table


def silence_table(silences: Sequence[_View], title: str, *, narrow: bool) -> Table:
    """A line for each silence, the one that ends first leading."""
    table = Table(title=title, show_lines=narrow)
    for column in ("id", "until, UTC") if narrow else ("id", "until, UTC", "about", "up to", "by"):
        table.add_column(column, no_wrap=column not in ("by", "about"))
    table.add_column("why", ratio=1)
    for one in silences:
        who, why = escape(one["who"]), escape(one["comment"])
        about = escape(about_words(one))
        head = one["id"][:8], clock_time(one["ends"]).removesuffix(" UTC")
        if narrow:
            table.add_row(*head, f"{about}, up to {one['max_severity']}\n{who}: {why}")
        else:
            table.add_row(*head, about, one["max_severity"], who, why)
    return table


def about_words(silence: _View) -> str:
    """What a silence is about."""
    about = " ".join(filter(None, (silence["rule"] or "every rule", silence["subject"])))
    return f"{about}, every portfolio" if silence["everywhere"] else about


def channel_table(told: Mapping[str, str], channels: Mapping[str, ChannelSettings]) -> Table:
    """A line for each channel that was tried: whether the message arrived, and what the channel will hear."""
    table = Table(title="Test messages")
    table.add_column("channel", no_wrap=True)
    table.add_column("what happened", ratio=1)
    table.add_column("will hear", ratio=1)
    for name, why in told.items():
        outcome = f"[red]failed[/]: {escape(why)}" if why else "[green]arrived[/]"
        table.add_row(escape(name), outcome, _hears(channels[name]) if name in channels else "everything")
    return table


def _hears(channel: ChannelSettings) -> str:
    quiet = channel.quiet_hours
    hears = _and_worse(channel.min_severity)
    if quiet is None:
        return hears
    return f"{hears}; {quiet.start:%H:%M} to {quiet.end:%H:%M} {quiet.zone} only {_and_worse(quiet.unless)}"


def _and_worse(severity: str) -> str:
    return {"low": "everything", "critical": "critical"}.get(severity, f"{severity} and worse")


def dead_table(items: Sequence[OutboxItem], title: str, *, narrow: bool) -> Table:
    """A line for each message that never arrived, with its last error."""
    table = Table(title=title, show_lines=True)
    for column in ("no.", "channel") if narrow else ("no.", "channel", "queued, UTC", "attempts"):
        table.add_column(column, no_wrap=True)
    table.add_column("message", ratio=1)
    for item in items:
        said = f"{escape(item.notice.title)}\n[red]{escape(item.error)}[/]"
        queued = f"{item.queued_at:%Y-%m-%d %H:%M}"
        if narrow:
            table.add_row(str(item.id), escape(item.handler), f"{said}\nqueued {queued}, {item.attempts} attempts")
        else:
            table.add_row(str(item.id), escape(item.handler), queued, str(item.attempts), said)
    return table
