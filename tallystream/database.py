"""Opens DuckDB so that an expression has one value everywhere: in the stream, at rest, in batch, on any machine."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb

OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
ROLLBACK_PAUSE = 0.05  # seconds
ALIKE = (
    # A cast from or to TIMESTAMPTZ takes the zone of the machine otherwise.
    "SET GLOBAL TimeZone = 'UTC'",
    # What two TRY(…) of a view have in common is computed before them, outside of both, and then one event that
    # overflows stops the stream (DuckDB 1.5.5).
    "SET disabled_optimizers = 'common_subexpressions'",
    # For a left side that DuckDB thinks is small it joins ASOF by nested loops, and it thinks so of each new
    # temporary table: 15 s instead of 0.1 s for 65 k orders and 210 k clicks.
    "SET GLOBAL asof_loop_join_threshold = 0",
)


def connect(path: Path | None = None, read_only: bool = False, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """The database at `path`, or one in memory; nothing is ever downloaded for it.

    Raises:
        duckdb.IOException: another process holds the file, or it is no database.
    """
    config = OFFLINE if threads is None else {**OFFLINE, "threads": threads}
    con = duckdb.connect(":memory:" if path is None else str(path), read_only, config)
    for statement in ALIKE:
        con.execute(statement)
    return con


def take_half(con: duckdb.DuckDBPyConnection) -> None:
    """Leaves the other half of the cores to what runs beside: reading, decoding and tallying beside a commit.

    Shared among threads a statement over a few thousand rows takes a third more CPU time, and no less wall time.
    """
    found = con.execute("SELECT current_setting('threads')").fetchone()
    assert found is not None
    con.execute(f"SET GLOBAL threads = {max(1, int(found[0]) // 2)}")


def rollback(con: duckdb.DuckDBPyConnection) -> None:
    """Ends a transaction that failed, so that the next one can begin."""
    while True:
        try:
            con.execute("ROLLBACK")
            return
        except duckdb.OutOfMemoryException:
            # Seen: it needs memory too, and left undone no transaction begins any more. The query that has it all ends.
            time.sleep(ROLLBACK_PAUSE)
        except duckdb.Error:
            # A failed COMMIT has ended the transaction itself: there is nothing left to roll back.
            return
