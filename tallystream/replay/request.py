"""What a replay is asked for, and whether the log, the archive and the warehouse can give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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


def time_of(field: str, text: str | None) -> datetime | None:
    """A time that a person wrote, as UTC, naive; one without a zone is UTC.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{field}: {text} is no time; write one such as 2026-11-24T10:00:00Z") from None
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class ReplayRequest:
    """A replay. Ranges are half-open; None leaves an end open. Times are UTC, naive.

    `partitions`: of the topics named; None: all. `time_kind`: whose time `from_time` and `to_time` are, the events'
    or the log's. `views_dir`: None: the definitions that the warehouse has. `views`: names of those to compare; None: all. `rate`: messages a second at most; None: no limit.
    `mends`: a backfill. Rows that a promotion of another definition made stay as they are, and views without windows are
    compared whole, for nobody looks at the difference before it is swapped in.
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
    mends: bool = False

    def check(self) -> None:
        """What can be said without looking anywhere: values that no log could give.

        Raises:
            UsageError: which, and what it may be.
        """
        names = " and ".join(TOPICS)
        unknown = sorted(set(self.topics) - set(TOPICS))
        if not self.topics:
            raise UsageError(f"no topic is named; the topics are {names}")
        if unknown:
            raise UsageError(f"there is no topic {unknown[0]}; the topics are {names}")
        for field, offset in (("from_offset", self.from_offset), ("to_offset", self.to_offset)):
            if offset is not None and offset < 0:
                raise UsageError(f"{field} is {offset}; offsets begin at 0")
        if self.rate is not None and self.rate < 1:
            raise UsageError(f"the rate is {self.rate} messages a second; say 1 or more, or leave it out for no limit")
        low, high = self.from_offset, self.to_offset
        if low is not None and high is not None and low >= high:
            raise UsageError(f"the range of offsets [{low}, {high}) is empty")
        since, until = self.from_time, self.to_time
        if since is not None and until is not None and since >= until:
            raise UsageError(f"the range of times [{since}, {until}) is empty")
        if self.time_kind == "log" and (since or until) and (low is not None or high is not None):
            raise UsageError("a range is of offsets or of the log's times, not of both; leave one of them out")

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


@dataclass(frozen=True)
class Available:
    """What there is to replay.

    `tallied`: by partition [start, next) of the warehouse. `times`: by topic the least and the greatest event time that it
    has met, late events too. `log`: by partition the offsets [low, high) that the log has.
    """

    tallied: Mapping[Key, tuple[int, int]]
    times: Mapping[str, tuple[datetime, datetime]]
    log: Mapping[Key, tuple[int, int]]

    def in_words(self, source: Source) -> str:
        """By topic the event times, and the offsets that were tallied and can be read."""
        told = []
        for topic in TOPICS:
            span = " to ".join(t.isoformat() + "Z" for t in self.times.get(topic, ())) or "none"
            offsets = []
            for key, (start, end) in sorted(self.tallied.items()):
                first = start if source == "archive" else max(start, self.log.get(key, (start, end))[0])
                if key[0] == topic:
                    offsets.append(f"{topic}/{key[1]} [{first}, {max(first, end)})")
            told.append(f"{topic}: event times {span}, offsets {', '.join(offsets) or 'none'}")
        return "; ".join(told)


def resolve(
    settings: Settings,
    request: ReplayRequest,
    tallied: Mapping[Key, tuple[int, int]],
    times: Mapping[str, tuple[datetime, datetime]],
) -> dict[Key, Span]:
    """The span of every partition of both topics; those that were not asked for are empty.

    `tallied`: by partition [start, next) of the warehouse. `times`: see `Available`.

    Raises:
        UsageError: a topic, partition or range that does not exist; the message says what there is.
        WarehouseError: the source no longer has what the judge must read first.
    """
    request.check()
    logs = topic_logs(settings, sorted({t for t, _ in tallied} | set(request.topics)))
    there = Available(tallied, times, {(t, p): r for t, (_, ranges) in logs.items() for p, r in ranges.items()})
    for topic in request.topics:
        partitions = sorted(p for t, p in tallied if t == topic)
        for partition in request.partitions or ():
            if partition not in partitions:
                raise UsageError(f"{topic} has no partition {partition}; it has {partitions}")
    _check_times(request, there)
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
        raise UsageError(f"the range holds no offset that was tallied; there is {there.in_words(request.source)}")
    _check_source(settings, request, spans, there)
    return spans


def _check_times(request: ReplayRequest, there: Available) -> None:
    """A range in which nothing lies would differ in nothing: a green run that looked at no row."""
    low, high = request.event_times
    if low is None and high is None:
        return
    for topic in request.topics:
        least, greatest = there.times.get(topic, (None, None))
        if least and greatest and (low is None or greatest >= low) and (high is None or least < high):
            return
    raise UsageError(
        f"no event of {' or '.join(request.topics)} lies in [{low or 'the beginning'}, {high or 'the end'}); "
        f"there is {there.in_words(request.source)}"
    )


def _check_range(key: Key, first: int, last: int, start: int, until: int, clipped: bool) -> None:
    if not clipped and (first < start or last > until):
        raise UsageError(
            f"{key[0]}/{key[1]}: offsets [{first}, {last}) are not all there; the warehouse has tallied [{start}, {until})"
        )


def _check_source(settings: Settings, request: ReplayRequest, spans: Mapping[Key, Span], there: Available) -> None:
    """A judge begins where the stream's did: without the offsets before the range its verdicts could be others."""
    store = open_store(settings)
    for (topic, partition), span in sorted(spans.items()):
        if span.until == span.start:
            continue
        low, high = there.log.get((topic, partition), (0, 0))
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
                f"there is {there.in_words(request.source)}: replay with --source archive"
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
