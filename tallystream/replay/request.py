"""What a replay is asked for, and whether the log, the archive and the warehouse can give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import TopicPartition

from tallystream.errors import UsageError, WarehouseError
from tallystream.settings import TOPICS, Settings
from tallystream.store.objects import open_store
from tallystream.topics.client import plain_consumer, topic_logs
from tallystream.warehouse.archive_read import archived

Mode = Literal["sandbox", "diff", "promote"]
Source = Literal["kafka", "archive"]
Key = tuple[str, int]


@dataclass(frozen=True)
class ReplayRequest:
    """A replay. Ranges are half-open; None leaves an end open. Times are UTC, naive.

    `partitions`: of the topics named; None: all. `time_kind`: whose time `from_time` and `to_time` are, the events'
    or the log's. `views_dir`: None: the definitions that the warehouse has. `views`: names of those to compare; None: all. `rate`: messages a second at most; None: no limit.
    """

    mode: Mode = "sandbox"
    topics: tuple[str, ...] = TOPICS
    partitions: tuple[int, ...] | None = None
    from_offset: int | None = None
    to_offset: int | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None
    time_kind: Literal["event", "log"] = "event"
    source: Source = "kafka"
    views_dir: Path | None = None
    views: tuple[str, ...] | None = None
    rate: int | None = None

    @property
    def event_times(self) -> tuple[datetime | None, datetime | None]:
        """The range of event times; (None, None) when it is asked for otherwise."""
        return (self.from_time, self.to_time) if self.time_kind == "event" else (None, None)


@dataclass(frozen=True)
class Span:
    """One partition: the replay's offsets [first, last) within [start, until), all that the warehouse has tallied."""

    start: int
    first: int
    last: int
    until: int

    @property
    def whole(self) -> bool:
        """Whether all that was tallied is in the range."""
        return self.first <= self.start and self.last >= self.until


def resolve(settings: Settings, request: ReplayRequest, tallied: Mapping[Key, tuple[int, int]]) -> dict[Key, Span]:
    """The span of every partition of both topics; those that were not asked for are empty.

    `tallied`: by partition [start, next) of the warehouse.

    Raises:
        UsageError: a topic, partition or range that does not exist; the message says what there is.
        WarehouseError: the source no longer has what the judge must read first.
    """
    unknown = sorted(set(request.topics) - set(TOPICS))
    if unknown:
        raise UsageError(f"there is no topic {unknown[0]}; the topics are {' and '.join(TOPICS)}")
    there = {t: sorted(p for t2, p in tallied if t2 == t) for t in request.topics}
    for topic in request.topics:
        for partition in request.partitions or ():
            if partition not in there[topic]:
                raise UsageError(f"{topic} has no partition {partition}; it has {there[topic]}")
    low, high = request.from_offset, request.to_offset
    if low is not None and high is not None and low >= high:
        raise UsageError(f"the range of offsets [{low}, {high}) is empty")
    since, until = request.from_time, request.to_time
    if since is not None and until is not None and since >= until:
        raise UsageError(f"the range of times [{since}, {until}) is empty")
    spans = {}
    by_log = _log_offsets(settings, request, tallied) if request.time_kind == "log" else {}
    for key, (start, end) in tallied.items():
        topic, partition = key
        if topic not in request.topics or (request.partitions is not None and partition not in request.partitions):
            spans[key] = Span(start, end, end, end)
            continue
        first, last = by_log.get(key, (request.from_offset, request.to_offset))
        first, last = start if first is None else first, end if last is None else last
        named = request.topics != TOPICS or request.partitions is not None
        _check_range(key, first, last, start, end, bool(by_log) or not named)
        spans[key] = Span(start, min(max(first, start), end), max(start, min(last, end)), end)
    if not any(s.last > s.first for s in spans.values()):
        have = ", ".join(f"{t}/{p} [{a}, {b})" for (t, p), (a, b) in sorted(tallied.items()))
        raise UsageError(f"the range holds no offset; the warehouse has tallied {have}")
    _check_source(settings, request, spans)
    return spans


def _check_range(key: Key, first: int, last: int, start: int, until: int, clipped: bool) -> None:
    if not clipped and (first < start or last > until):
        raise UsageError(
            f"{key[0]}/{key[1]}: offsets [{first}, {last}) are not all there; the warehouse has tallied [{start}, {until})"
        )


def _check_source(settings: Settings, request: ReplayRequest, spans: Mapping[Key, Span]) -> None:
    """A judge begins where the stream's did: without the offsets before the range its verdicts could be others."""
    topics = sorted({t for t, _ in spans})
    logs = topic_logs(settings, topics)
    store = open_store(settings)
    for (topic, partition), span in sorted(spans.items()):
        if span.until == span.start:
            continue
        low, high = logs[topic][1].get(partition, (0, 0))
        if request.source == "archive":
            first, after = archived(store, topic).get(partition, (span.until, low))
            if first > span.start or after < low:
                raise WarehouseError(
                    f"the archive does not begin where {topic}/{partition} was first tallied ({span.start}), or leaves a hole "
                    f"before the log ({low}); it has [{first}, {after}); run `tally archive` before retention removes the log"
                )
        elif low > span.start:
            raise WarehouseError(
                f"retention has removed offsets [{span.start}, {low}) of {topic}/{partition}, which the judge must read first; "
                "replay with --source archive"
            )
        if high < span.until:
            raise WarehouseError(
                f"{topic}/{partition}: the log ends at {high}, the warehouse stands at {span.until}: the log went back"
            )


def _log_offsets(settings: Settings, request: ReplayRequest, tallied: Mapping[Key, tuple[int, int]]) -> dict[Key, Any]:
    """By partition the offsets of the first messages at or after the two log times, as the broker knows them."""
    consumer = plain_consumer(settings)
    found: dict[Key, list[int | None]] = {key: [None, None] for key in tallied if key[0] in request.topics}
    try:
        for end, time in enumerate((request.from_time, request.to_time)):
            if time is None:
                continue
            stamp = int((time - datetime(1970, 1, 1)).total_seconds() * 1000)
            asked = [TopicPartition(t, p, stamp) for t, p in found]
            for answer in consumer.offsets_for_times(asked, timeout=20):
                # Negative: no message is as new.
                at = answer.offset if answer.offset >= 0 else tallied[answer.topic, answer.partition][1]
                found[answer.topic, answer.partition][end] = at
    finally:
        consumer.close()
    return {key: tuple(ends) for key, ends in found.items()}
