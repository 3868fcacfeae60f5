"""Window cases with known answers: read, put into logs, and run through the engine."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tallystream.views.loader import load_view
from tallystream.views.plan import ViewPlan
from tests.oracle.judging import Message
from tests.warehouse.stream import Stream, encode

FOLDER = Path(__file__).parent / "cases"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
KEY = {"orders": "order_id", "clicks": "user_id"}
Rows = list[dict[str, Any]]


def parse_time(text: str) -> datetime:
    """A UTC time of the cases: a fraction of one to six digits, or none."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole) + timedelta(microseconds=int(fraction.ljust(6, "0") or 0))


def show_time(value: Any) -> Any:
    """As the cases write it."""
    if not isinstance(value, datetime):
        return value
    return value.strftime("%Y-%m-%dT%H:%M:%S") + (f".{value.microsecond:06d}" if value.microsecond else "") + "Z"


def logs_of(events: dict[str, Rows], partitions: int) -> dict[str, dict[int, list[Message]]]:
    """Both topics, split by key as a producer would."""
    logs: dict[str, dict[int, list[Message]]] = {t: {p: [] for p in range(partitions)} for t in KEY}
    for topic, listed in events.items():
        for raw in listed:
            key = str(raw[KEY[topic]]).encode()
            log = logs[topic][sum(key) % partitions]
            log.append(
                Message(len(log), None, key, encode(topic, {**raw, "event_time": parse_time(raw["event_time"])}))
            )
    return logs


def plan_of(name: str, view: str, folder: Path) -> ViewPlan:
    """The plan of a case's view."""
    path = folder / f"{re.sub(r'[^a-z0-9]', '_', name)}.sql"
    path.write_text(view)
    return load_view(path)


def run(
    view: str,
    events: dict[str, Rows],
    lateness: int,
    folder: Path,
    partitions: int = 1,
    batch: int = 3,
    restart: bool = False,
) -> Stream:
    """The engine over the events, `batch` messages of each partition at a time; the view is `v` + its name."""
    plan = plan_of("v", view, folder)
    stream = Stream(folder / "home", logs_of(events, partitions), lateness, max(lateness, 3600))
    stream.start({plan.name: plan})
    while True:
        deltas = [d for t, p in stream.starts if (d := stream.read(t, p, batch)) is not None]
        if not deltas:
            return stream
        stream.commit(deltas)
        if restart:
            stream.start({plan.name: plan})


def sorted_rows(con: duckdb.DuckDBPyConnection, query: str, columns: list[str] | None = None) -> Rows:
    """Rows sorted by every column from the left, ascending, NULL last; times as the cases write them."""
    result = con.execute(query)
    names = [d[0] for d in result.description]
    rows = [
        {k: show_time(v) for k, v in zip(names, row, strict=True) if columns is None or k in columns}
        for row in result.fetchall()
    ]
    return sorted(rows, key=lambda row: [(v is None, 0 if v is None else v) for v in row.values()])


def typed(rows: Rows) -> list[list[tuple[str, type, Any]]]:
    """1 and 1.0 differ."""
    return [[(k, type(v), v) for k, v in row.items()] for row in rows]
