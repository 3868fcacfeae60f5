"""Is the log still the one that the stored offsets speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb

from tallystream.errors import LogWentBackError
from tallystream.topics.batch import LastRecord

Key = tuple[str, int]
# By partition the first record at or after an offset; see `read_records`.
ReadRecords = Callable[[Mapping[Key, int]], Mapping[Key, LastRecord | None]]
ADVICE = "restore the log, or accept the loss: `tally reset --topic {0} --to earliest|latest|OFFSET`; nothing was read or changed"
STORED = """
    SELECT topic, partition, next_offset, last_offset, last_digest FROM ledger.offsets WHERE retired_at IS NULL
    ORDER BY ALL
"""


@dataclass(frozen=True)
class TopicLog:
    """What the broker has of a topic now: its id and, by partition, the offsets [low, high)."""

    topic_id: str | None
    ranges: Mapping[int, tuple[int, int]]


def check_log(con: duckdb.DuckDBPyConnection, logs: Mapping[str, TopicLog], read: ReadRecords | None = None) -> None:
    """Refuses to go on when the log cannot be the one that the stored offsets speak of.

    An embedded broker killed hard can come back shorter, a topic can be made anew, retention can
    overtake a stream that stood still: reading on would repeat or skip events silently. A log made anew that has
    grown past the stored offset shows by its id or, whatever the broker, by the last record read: `read` gets it
    from the log. None: the log is not asked.

    Raises:
        LogWentBackError: with topic, partition, both offsets and the two ways on.
    """
    stored_ids = dict(con.execute("SELECT topic, topic_id FROM ledger.topics").fetchall())
    rows = [row for row in con.execute(STORED).fetchall() if row[0] in logs]
    for topic, log in logs.items():
        known = stored_ids.get(topic)
        if known and log.topic_id and known != log.topic_id:
            stands = ", ".join(f"{t}/{p} at {position}" for t, p, position, *_ in rows if t == topic)
            raise LogWentBackError(
                f"topic {topic} is not the one tallied so far (id {log.topic_id}, stored {known}): it was deleted and made anew. "
                f"The warehouse stands with {stands}, offsets that mean other events now. " + ADVICE.format(topic)
            )
    for topic, partition, position, *_ in rows:
        _check_range(topic, partition, position, logs[topic].ranges.get(partition))
    if read is not None:
        _check_records(rows, logs, read)


def _check_range(topic: str, partition: int, position: int, found: tuple[int, int] | None) -> None:
    if found is None:
        raise LogWentBackError(
            f"{topic}/{partition} stands at offset {position} and is gone from the broker. " + ADVICE.format(topic)
        )
    low, high = found
    if position > high:
        raise LogWentBackError(
            f"{topic}/{partition}: the warehouse stands at offset {position}, the log ends at {high}: the log went back. "
            + ADVICE.format(topic)
        )
    if position < low:
        raise LogWentBackError(
            f"{topic}/{partition}: the warehouse stands at offset {position}, the log begins at {low}: retention removed "
            f"{low - position} offsets unread. " + ADVICE.format(topic)
        )


def _check_records(
    rows: list[tuple[str, int, int, int | None, str]], logs: Mapping[str, TopicLog], read: ReadRecords
) -> None:
    """Only where the log can still have the record: retention may have removed it, rightly."""
    stored = {
        (topic, partition): LastRecord(offset, digest)
        for topic, partition, _, offset, digest in rows
        if offset is not None and logs[topic].ranges[partition][0] <= offset
    }
    found = read({key: record.offset for key, record in stored.items()})
    for topic, partition, position, *_ in rows:
        known, there = stored.get((topic, partition)), found.get((topic, partition))
        # A record further on says nothing: compaction may have removed the one that was read.
        if known is None or there is None or there.offset != known.offset or there == known:
            continue
        low, high = logs[topic].ranges[partition]
        raise LogWentBackError(
            f"{topic}/{partition}: the log has [{low}, {high}) and another record at offset {known.offset} than the one read "
            f"there; it was made anew, or lost its end, and has grown past offset {position}, where the warehouse stands: events "
            "before that offset were never read. " + ADVICE.format(topic)
        )
