"""Windows and aggregates an event at a time, in plain Python, from the definitions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

Event = dict[str, Any]
EPOCH = datetime(1970, 1, 1)
S = timedelta(seconds=1)


def tumble(events: Iterable[Event], size: timedelta, shift: timedelta = 0 * S) -> Iterator[Event]:
    """Each event with its window."""
    for e in events:
        start = e["event_time"] - (e["event_time"] - EPOCH - shift) % size
        yield {**e, "window_start": start, "window_end": start + size}


def hop(events: Iterable[Event], slide: timedelta, size: timedelta, shift: timedelta = 0 * S) -> Iterator[Event]:
    """Each event once for each window that holds it."""
    for e in events:
        start = e["event_time"] - (e["event_time"] - EPOCH - shift) % slide
        while start + size > e["event_time"]:
            yield {**e, "window_start": start, "window_end": start + size}
            start -= slide


def session(events: Iterable[Event], key: str, gap: timedelta) -> Iterator[Event]:
    """Each event with its session: neighbours in time of one key, less than the gap apart. None is a key."""
    by_key: dict[Any, list[Event]] = defaultdict(list)
    for e in events:
        by_key[e[key]].append(e)
    for theirs in by_key.values():
        open_: list[Event] = []
        for e in sorted(theirs, key=lambda e: e["event_time"]):
            if open_ and e["event_time"] - open_[-1]["event_time"] >= gap:
                yield from _closed(open_, gap)
                open_ = []
            open_.append(e)
        yield from _closed(open_, gap)


def _closed(members: list[Event], gap: timedelta) -> Iterator[Event]:
    bounds = {"window_start": members[0]["event_time"], "window_end": members[-1]["event_time"] + gap}
    return ({**e, **bounds} for e in members)


def items(orders: Iterable[Event]) -> Iterator[Event]:
    """Each item of each order's event."""
    for o in orders:
        for item in o["items"]:
            yield {**o, **item}


def group(rows: Iterable[Event], keys: Callable[[Event], tuple[Any, ...]]) -> dict[tuple[Any, ...], list[Event]]:
    """By key; None is one."""
    found: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for row in rows:
        found[keys(row)].append(row)
    return found


def told(rows: Iterable[Event], column: str) -> list[Any]:
    """The values of a column that are not NULL."""
    return [r[column] for r in rows if r[column] is not None]


def total(rows: Iterable[Event], column: str) -> int | None:
    """As SQL sums: NULL of nothing."""
    values = told(rows, column)
    return sum(values) if values else None


def mean(values: list[int]) -> float | None:
    """The exact quotient, as a double."""
    return sum(values) / len(values) if values else None


def least(rows: Iterable[Event], column: str) -> Any:
    """NULL of nothing."""
    return min(told(rows, column), default=None)


def greatest(rows: Iterable[Event], column: str) -> Any:
    """NULL of nothing."""
    return max(told(rows, column), default=None)


def newest(rows: Iterable[Event], column: str, oldest: bool = False) -> Any:
    """arg_max(column, event_time), or arg_min: ties by event_id, then by the value; NULL values are passed over."""
    known = [(r["event_time"], r["event_id"], r[column]) for r in rows if r[column] is not None]
    return (min if oldest else max)(known)[2] if known else None


def nearest(
    left: Event, rights: Iterable[Event], keys: tuple[str, str], fits: Callable[[datetime, datetime], bool], last: bool
) -> Event | None:
    """The last or first right event of the key that fits in time; ties by event_id, the last's greatest, the first's least."""
    mine = [
        r
        for r in rights
        if left[keys[0]] is not None and r[keys[1]] == left[keys[0]] and fits(left["event_time"], r["event_time"])
    ]
    return (max if last else min)(mine, key=lambda r: (r["event_time"], r["event_id"]), default=None)


def bag(rows: Iterable[tuple[Any, ...]]) -> Counter[tuple[Any, ...]]:
    """Rows with their types: 1 and 1.0 differ, and so do two rows from one."""
    return Counter(tuple((type(v).__name__, v) for v in row) for row in rows)
