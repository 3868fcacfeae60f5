"""The state of the stream, from the ledger and the broker: one committed state of each."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tallystream.settings import TOPICS, Settings
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.warehouse.live import live_address
from tallystream.warehouse.read import Reader, open_reader

COUNTS = ("consumed", "applied", "duplicate", "late", "dead", "shed")
LEDGER = f"""
    SELECT o.topic, o.partition, o.next_offset, w.watermark AS topic_watermark, o.max_event_time, {", ".join(f"o.{c}" for c in COUNTS)},
           (SELECT lateness FROM ledger.rules r WHERE r.topic = o.topic AND r.partition = o.partition
            ORDER BY from_offset DESC LIMIT 1) AS lateness
    FROM ledger.offsets o LEFT JOIN ledger.watermarks w USING (topic)
    ORDER BY o.topic, o.partition
"""
LAST = """
    SELECT id, committed_at, min(seconds) AS seconds, sum(consumed)::BIGINT AS consumed
    FROM ledger.commits GROUP BY ALL ORDER BY id DESC LIMIT 1
"""
AHEAD = """
    SELECT topic, partition, count(*) AS n FROM main.dead_letters WHERE reason = 'clock_ahead' GROUP BY ALL
"""
STATE = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'state' ORDER BY 1"
VIEWS = """
    SELECT v.name, v.version, v.status,
           (sum(b.next_offset - b.from_offset) / nullif(sum(b.until_offset - b.from_offset), 0))::DOUBLE AS built
    FROM ledger.views v LEFT JOIN ledger.builds b USING (name, version)
    GROUP BY ALL ORDER BY v.name, v.version
"""


def collect(settings: Settings) -> dict[str, Any]:
    """Everything that `tally status --json` prints; times are ISO 8601 UTC, null before the first event.

    `gone`: partitions in the books that the broker does not have: retired by a reset, or waiting for one.

    Raises:
        BrokerError: the broker does not answer.
    """
    logs = topic_logs(settings, TOPICS)
    live, ledger, last, views, ahead = False, {}, None, [], {}
    if settings.warehouse.exists():
        with open_reader(settings) as reader:
            live = reader.live
            ledger = {(r["topic"], r["partition"]): r for r in _dicts(reader.rows(LEDGER))}
            commits = _dicts(reader.rows(LAST))
            last = {**commits[0], "committed_at": iso(commits[0]["committed_at"])} if commits else None
            views = _sized(reader, _dicts(reader.rows(VIEWS)))
            ahead = {(r["topic"], r["partition"]): r["n"] for r in _dicts(reader.rows(AHEAD))}
    partitions = [
        _partition(topic, partition, high, ledger.get((topic, partition)), ahead.get((topic, partition), 0))
        for topic, (_, ranges) in sorted(logs.items())
        for partition, (_, high) in sorted(ranges.items())
    ]
    gone = [
        _partition(*key, row["next_offset"], row, 0) for key, row in ledger.items() if key[1] not in logs[key[0]][1]
    ]
    return {
        "bootstrap_servers": kafka_config(settings)["bootstrap.servers"],
        "stream": "running" if live else "stopped",
        "health": health(settings) if live else None,
        "last_commit": last,
        "balanced": all(p["consumed"] == sum(p[c] for c in COUNTS[1:]) for p in (*partitions, *gone)),
        "watermarks": {
            topic: iso(next((r["topic_watermark"] for (t, _), r in ledger.items() if t == topic), None))
            for topic in logs
        },
        "partitions": partitions,
        "gone": gone,
        "idle": idle(partitions),
        "views": views,
        "bytes": {
            "warehouse": _size(settings.warehouse),
            "log": _size(settings.warehouse.with_name(settings.warehouse.name + ".wal")),
        },
    }


def health(settings: Settings) -> dict[str, Any] | None:
    """The running stream's processes and pace; None when it answers no more.

    `started_at` and `restarts` are of its supervisor, `pid` is the writer's; durations are seconds.
    """
    address = live_address(settings)
    if address is None:
        return None
    try:
        answer = httpx.get(f"{address['admin']}/health", timeout=2.0).json()
        told = json.loads((settings.run_dir / "stream.json").read_text())
    except (httpx.HTTPError, ValueError, OSError):
        return None
    began = datetime.fromisoformat(told["started_at"])
    return {
        "pid": answer["pid"],
        "supervisor_pid": told["pid"],
        "workers": told["workers"],
        "restarts": told["restarts"],
        "started_at": told["started_at"],
        "uptime_seconds": round((datetime.now(UTC) - began).total_seconds(), 1),
        "last_commit_age_seconds": answer["last_commit_age_seconds"],
        "commit_seconds": answer["commit_seconds"],
        "query_seconds": answer["query_seconds"],
    }


def idle(partitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Partitions that are read to their end and hold their topic's watermark back, with the seconds that it costs.

    `behind_seconds` is null for one that never had an event: the topic has no watermark while it is silent. A
    partition counts when it is further behind the newest of its topic than that one's lateness.
    """
    found = []
    for topic in sorted({p["topic"] for p in partitions}):
        here = [p for p in partitions if p["topic"] == topic]
        spoken = [_time(p["watermark"]) for p in here if p["watermark"]]
        for p in here if spoken else []:
            behind = (max(spoken) - _time(p["watermark"])).total_seconds() if p["watermark"] else None
            if p["lag"] == 0 and (behind is None or behind > p["lateness_seconds"]):
                found.append({"topic": topic, "partition": p["partition"], "behind_seconds": behind})
    return found


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.rstrip("Z"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sized(reader: Reader, views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The views with their rows by kind of table: hot, cold, and others (members, events that may be joined yet)."""
    tables = [row[0] for row in reader.rows(STATE)[2]]
    wanted = {t: v for t in tables for v in views if t.startswith(f"{v['name']}__{v['version']}")}
    if not wanted:
        return views
    counts = ", ".join(f'(SELECT count(*) FROM state."{t}")' for t in wanted)
    for view in views:
        view["rows"] = {"hot": 0, "cold": 0, "others": 0}
    for (table, view), n in zip(wanted.items(), reader.rows(f"SELECT {counts}")[2][0], strict=True):
        suffix = table.removeprefix(f"{view['name']}__{view['version']}")
        view["rows"][{"": "hot", "__cold": "cold"}.get(suffix, "others")] += n
    return views


def _partition(topic: str, partition: int, high: int, row: dict[str, Any] | None, ahead: int) -> dict[str, Any]:
    position = row["next_offset"] if row else 0
    newest: datetime | None = row["max_event_time"] if row else None
    watermark = None
    if row is not None and newest is not None:
        # Before the year 1 there is no time that Python could tell.
        with suppress(OverflowError):
            watermark = newest - timedelta(seconds=row["lateness"] or 0)
    return {
        "topic": topic,
        "partition": partition,
        "position": position,
        "log_end": high,
        "lag": max(0, high - position),
        "watermark": iso(watermark),
        "lateness_seconds": (row["lateness"] or 0) if row else 0,
        "clock_ahead": ahead,
        **{c: (row[c] if row else 0) for c in COUNTS},
    }


def _dicts(result: tuple[list[str], list[Any], list[tuple[Any, ...]]]) -> list[dict[str, Any]]:
    names, _, rows = result
    return [dict(zip(names, row, strict=True)) for row in rows]


def iso(time: datetime | None) -> str | None:
    """ISO 8601 UTC with Z; a fraction only when there is one."""
    return None if time is None else time.replace(tzinfo=None).isoformat() + "Z"
