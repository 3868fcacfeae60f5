"""Moves stored positions by hand, in one transaction that leaves a trace."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import duckdb

from tallystream.errors import UsageError


def move(
    con: duckdb.DuckDBPyConnection,
    topic: str,
    topic_id: str | None,
    ranges: Mapping[int, tuple[int, int]],
    partition: int | None,
    to: str,
    now: datetime,
) -> list[tuple[int, int, int]]:
    """Sets next_offset of the partitions and the topic's id; returns (partition, before, after).

    `ranges`: by partition the offsets [low, high) that the log has. `to`: earliest, latest or an offset.

    Raises:
        UsageError: the offset is not in the log, or the partition is unknown; nothing was changed.
    """
    rows = con.execute(
        "SELECT partition, next_offset FROM ledger.offsets WHERE topic = ? ORDER BY 1", [topic]
    ).fetchall()
    chosen = [(p, before) for p, before in rows if partition is None or p == partition]
    if not chosen:
        raise UsageError(
            f"the warehouse knows no {topic}{'' if partition is None else f'/{partition}'}: there is nothing to reset"
        )
    moved = []
    for number, before in chosen:
        low, high = ranges.get(number, (0, 0))
        after = {"earliest": low, "latest": high}.get(to)
        after = int(to) if after is None else after
        if not low <= after <= high:
            raise UsageError(
                f"{topic}/{number}: offset {after} is not in the log, which has [{low}, {high}]; nothing was changed"
            )
        moved.append((number, before, after))
    con.execute("BEGIN")
    try:
        con.execute("UPDATE ledger.topics SET topic_id = ? WHERE topic = ?", [topic_id, topic])
        for number, before, after in moved:
            con.execute(
                "UPDATE ledger.offsets SET next_offset = ? WHERE topic = ? AND partition = ?", [after, topic, number]
            )
            con.execute(
                "INSERT INTO ledger.resets VALUES (?, ?, ?, ?, ?, 'tally reset')", [now, topic, number, before, after]
            )
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise
    return moved
