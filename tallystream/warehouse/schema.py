"""The tables of the warehouse, as migrations: each runs once, in order, inside one transaction."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tallystream.database import connect
from tallystream.errors import WarehouseError

# Never edit a migration that was released: add the next one. The index in the list is the version.
MIGRATIONS: list[str] = [
    """
    CREATE SCHEMA IF NOT EXISTS state;
    CREATE SCHEMA IF NOT EXISTS ledger;

    CREATE TABLE ledger.topics (topic VARCHAR NOT NULL, topic_id VARCHAR);

    -- One row a partition: where the next commit must begin, and the accounts so far.
    CREATE TABLE ledger.offsets (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        start_offset BIGINT NOT NULL,
        next_offset BIGINT NOT NULL,
        max_event_time TIMESTAMP,
        consumed BIGINT NOT NULL DEFAULT 0,
        applied BIGINT NOT NULL DEFAULT 0,
        duplicate BIGINT NOT NULL DEFAULT 0,
        late BIGINT NOT NULL DEFAULT 0,
        dead BIGINT NOT NULL DEFAULT 0,
        shed BIGINT NOT NULL DEFAULT 0
    );

    -- One row a topic: windows that end at or before it are final. NULL until every partition spoke.
    CREATE TABLE ledger.watermarks (topic VARCHAR NOT NULL, watermark TIMESTAMP);

    -- One row a partition and commit: offsets [from_offset, to_offset).
    CREATE TABLE ledger.commits (
        id BIGINT NOT NULL,
        committed_at TIMESTAMP NOT NULL,
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        from_offset BIGINT NOT NULL,
        to_offset BIGINT NOT NULL,
        consumed BIGINT NOT NULL,
        applied BIGINT NOT NULL,
        duplicate BIGINT NOT NULL,
        late BIGINT NOT NULL,
        dead BIGINT NOT NULL,
        shed BIGINT NOT NULL,
        watermark TIMESTAMP,
        schema_ids INTEGER[],
        code_version VARCHAR NOT NULL,
        seconds DOUBLE NOT NULL
    );

    -- From which offset on a partition was judged by which rules (seconds).
    CREATE TABLE ledger.rules (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        from_offset BIGINT NOT NULL,
        lateness BIGINT NOT NULL,
        horizon BIGINT NOT NULL,
        max_ahead BIGINT NOT NULL
    );

    -- status: building (reads the log again), live, superseded (shown until its successor is built).
    CREATE TABLE ledger.views (
        name VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        sql VARCHAR NOT NULL,
        created_at TIMESTAMP NOT NULL,
        live_at TIMESTAMP
    );

    -- How far the build of a view has read a partition: [from_offset, next_offset) of [from_offset, until_offset).
    CREATE TABLE ledger.builds (
        name VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        from_offset BIGINT NOT NULL,
        next_offset BIGINT NOT NULL,
        until_offset BIGINT NOT NULL
    );

    -- Who moved an offset by hand, and from where.
    CREATE TABLE ledger.resets (
        reset_at TIMESTAMP NOT NULL,
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        from_offset BIGINT NOT NULL,
        to_offset BIGINT NOT NULL,
        reason VARCHAR NOT NULL
    );

    -- What the judge remembers, one packed row a batch; dropped when older than the horizon.
    CREATE TABLE state.judge (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        first_offset BIGINT NOT NULL,
        max_time BIGINT NOT NULL,
        memory BLOB NOT NULL
    );

    CREATE TABLE main.late_events (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        "offset" BIGINT NOT NULL,
        reason VARCHAR NOT NULL,
        event_id VARCHAR,
        event_type VARCHAR,
        event_time TIMESTAMP,
        record_time TIMESTAMP,
        key BLOB,
        value BLOB
    );

    CREATE TABLE main.dead_letters (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        "offset" BIGINT NOT NULL,
        reason VARCHAR NOT NULL,
        detail VARCHAR,
        record_time TIMESTAMP,
        key BLOB,
        value BLOB
    );
    """,
    """
    -- Of the events applied in a commit. `first_id`: of a row that stands for several commits, the first; NULL for one.
    ALTER TABLE ledger.commits ADD COLUMN min_event_time TIMESTAMP;
    ALTER TABLE ledger.commits ADD COLUMN max_event_time TIMESTAMP;
    ALTER TABLE ledger.commits ADD COLUMN first_id BIGINT;

    -- Up to which watermark a view's final rows are cold, and up to which what amends them was dropped.
    CREATE TABLE ledger.frozen (
        name VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        frozen_before TIMESTAMP NOT NULL,
        forgotten_before TIMESTAMP
    );
    """,
    """
    CREATE TABLE ledger.view_topics (name VARCHAR NOT NULL, version VARCHAR NOT NULL, topic VARCHAR NOT NULL);

    -- What can have made the rows of a view over the events in [from_time, to_time): one row a partition and commit.
    CREATE MACRO main.provenance(view_name, from_time, to_time) AS TABLE
        SELECT c.topic, c.partition, c.from_offset, c.to_offset, coalesce(c.first_id, c.id) AS first_commit,
               c.id AS last_commit, c.committed_at, c.applied, c.min_event_time, c.max_event_time, c.watermark,
               c.schema_ids, c.code_version, v.version AS view_version
        FROM ledger.views v
        JOIN ledger.view_topics t ON t.name = v.name AND t.version = v.version
        JOIN ledger.commits c ON c.topic = t.topic
        WHERE v.name = view_name AND v.status = 'live' AND c.applied > 0
          AND coalesce(c.min_event_time < to_time, true) AND coalesce(c.max_event_time >= from_time, true);
    """,
    """
    -- The last record read, by which the log is known again; NULL: none since the last reset.
    ALTER TABLE ledger.offsets ADD COLUMN last_offset BIGINT;
    ALTER TABLE ledger.offsets ADD COLUMN last_digest VARCHAR;
    -- Since when the topic has no such partition: its accounts stay in the books.
    ALTER TABLE ledger.offsets ADD COLUMN retired_at TIMESTAMP;
    """,
]


def open_read_only(path: Path) -> duckdb.DuckDBPyConnection:
    """The warehouse at `path`, which nobody writes now.

    Raises:
        WarehouseError: the file has no tables yet: what made it was killed before its first transaction.
        duckdb.Error: another process holds it, or it is no database.
    """
    con = connect(path, read_only=True)
    refuse_unprepared(con, path)
    return con


def refuse_unprepared(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Closes a file that has no tables yet.

    Raises:
        WarehouseError: it has none.
    """
    if con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'tallystream_schema'").fetchone() is None:
        con.close()
        raise WarehouseError(f"{path} holds no warehouse yet: its making was cut short; `tally run` finishes it")


def migrate(con: duckdb.DuckDBPyConnection) -> int:
    """Brings the file to the newest schema version, all or nothing; returns that version.

    Raises:
        WarehouseError: the file was written by a newer Tallystream; nothing was changed.
    """
    con.execute("CREATE TABLE IF NOT EXISTS main.tallystream_schema (version INTEGER NOT NULL)")
    found = con.execute("SELECT max(version) FROM main.tallystream_schema").fetchone()
    version = 0 if found is None or found[0] is None else int(found[0])
    if version > len(MIGRATIONS):
        raise WarehouseError(
            f"the warehouse has schema version {version}, this Tallystream knows {len(MIGRATIONS)}; "
            "nothing was changed: run the newer Tallystream, or restore an older snapshot"
        )
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        con.execute("BEGIN")
        try:
            con.execute(script)
            con.execute("INSERT INTO main.tallystream_schema VALUES (?)", [number])
            con.execute("COMMIT")
        except duckdb.Error as error:
            con.execute("ROLLBACK")
            raise WarehouseError(f"migration {number} failed and was rolled back: {error}") from error
    return len(MIGRATIONS)
