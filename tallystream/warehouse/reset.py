"""Moves stored positions by hand, in one transaction that leaves a trace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb

from tallystream.errors import UsageError
from tallystream.topics.batch import LastRecord
from tallystream.warehouse.same_log import ReadRecords, TopicLog

BY_HAND = "tally reset"
GONE = "tally reset: the topic has no such partition"


@dataclass(frozen=True)
class Moved:
    """What became of one partition's position: offset `before`, and `after`; None: retired, for it is gone."""

    partition: int
    before: int
    after: int | None


def move(
    con: duckdb.DuckDBPyConnection,
    topic: str,
    log: TopicLog,
    partition: int | None,
    to: str,
    now: datetime,
    read: ReadRecords,
) -> list[Moved]:
    """Sets the positions of the partitions and adopts the topic's id; partitions that are gone are retired.

    `partition`: None for all. `to`: earliest, latest or an offset. `read`: asks the log for records, see `check_log`.
    The accounts of a retired partition stay in the books; it is no longer read, and holds no watermark back.

    Raises:
        UsageError: the offset is not in the log, the partition is unknown, or one partition is named of a topic that is
            another one as a whole; nothing was changed.
    """
    rows = con.execute(
        "SELECT partition, next_offset FROM ledger.offsets WHERE topic = ? AND retired_at IS NULL ORDER BY 1", [topic]
    ).fetchall()
    chosen = [(p, before) for p, before in rows if partition is None or p == partition]
    if not chosen:
        raise UsageError(
            f"the warehouse knows no {topic}{'' if partition is None else f'/{partition}'}: there is nothing to reset"
        )
    if partition is not None and len(rows) > 1:
        _check_same_topic(con, topic, log)
    moved = [Moved(number, before, _target(topic, number, to, log)) for number, before in chosen]
    before_them = {(topic, m.partition): m.after - 1 for m in moved if m.after and log.ranges[m.partition][0] < m.after}
    records = read(before_them)
    con.execute("BEGIN")
    try:
        con.execute("UPDATE ledger.topics SET topic_id = coalesce(?, topic_id) WHERE topic = ?", [log.topic_id, topic])
        for m in moved:
            if m.after is None:
                _retire(con, topic, m, now)
                continue
            record = records.get((topic, m.partition))
            same = record is not None and record.offset == m.after - 1
            put(con, topic, m.partition, m.after, now, BY_HAND, record if same else None)
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise
    return moved


def put(
    con: duckdb.DuckDBPyConnection,
    topic: str,
    partition: int,
    after: int,
    now: datetime,
    reason: str,
    record: LastRecord | None = None,
) -> None:
    """Makes a partition go on at offset `after`, in the caller's transaction; `record`: the one before it, if known.

    From there on it is judged by the rules in force: those of offsets that will be read again are of another reading.
    """
    con.execute(
        "INSERT INTO ledger.resets SELECT ?, topic, partition, next_offset, ?, ? FROM ledger.offsets "
        "WHERE topic = ? AND partition = ?",
        [now, after, reason, topic, partition],
    )
    con.execute(
        "UPDATE ledger.offsets SET next_offset = ?, retired_at = NULL, last_offset = ?, last_digest = ? "
        "WHERE topic = ? AND partition = ?",
        [after, record and record.offset, record and record.digest, topic, partition],
    )
    newest = con.execute(
        "SELECT max(from_offset) FROM ledger.rules WHERE topic = ? AND partition = ?", [topic, partition]
    ).fetchone()
    if newest is not None and newest[0] is not None and newest[0] > after:
        con.execute(
            "DELETE FROM ledger.rules WHERE topic = ? AND partition = ? AND from_offset >= ? AND from_offset < ?",
            [topic, partition, after, newest[0]],
        )
        con.execute(
            "UPDATE ledger.rules SET from_offset = ? WHERE topic = ? AND partition = ? AND from_offset = ?",
            [after, topic, partition, newest[0]],
        )


def _check_same_topic(con: duckdb.DuckDBPyConnection, topic: str, log: TopicLog) -> None:
    """The id is the topic's: adopting it for one partition would hide that the others' offsets mean other events."""
    found = con.execute("SELECT topic_id FROM ledger.topics WHERE topic = ?", [topic]).fetchone()
    known = found[0] if found else None
    if known and log.topic_id and known != log.topic_id:
        raise UsageError(
            f"topic {topic} was made anew (id {log.topic_id}, stored {known}), so the offsets of all its partitions are "
            "another log's: leave --partition out, and reset all; nothing was changed"
        )


def _target(topic: str, number: int, to: str, log: TopicLog) -> int | None:
    if number not in log.ranges:
        return None
    low, high = log.ranges[number]
    after = {"earliest": low, "latest": high}.get(to)
    after = int(to) if after is None else after
    if not low <= after <= high:
        raise UsageError(
            f"{topic}/{number}: offset {after} is not in the log, which has [{low}, {high}]; nothing was changed"
        )
    return after


def _retire(con: duckdb.DuckDBPyConnection, topic: str, m: Moved, now: datetime) -> None:
    con.execute("UPDATE ledger.offsets SET retired_at = ? WHERE topic = ? AND partition = ?", [now, topic, m.partition])
    con.execute(
        "INSERT INTO ledger.resets VALUES (?, ?, ?, ?, ?, ?)", [now, topic, m.partition, m.before, m.before, GONE]
    )
