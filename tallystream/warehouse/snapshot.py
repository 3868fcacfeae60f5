"""Snapshots: data, offsets and view definitions of one committed state, in the object store.

One read transaction sees one commit, whatever the writer does meanwhile: rows and offsets belong
together, and a restore goes on exactly-once from them. A crash anywhere leaves a snapshot without a
manifest, which nothing ever restores.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from tallystream import __version__
from tallystream.errors import WarehouseError
from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.store.objects import Store, digest_of
from tallystream.store.seal import Key, key_from_environment
from tallystream.warehouse import export
from tallystream.warehouse.held import connect
from tallystream.warehouse.manifest import MANIFEST, File, Manifest, Table, new_name, path_of
from tallystream.warehouse.schema import refuse_unprepared

OFFSETS = """
    SELECT topic, partition, next_offset, epoch_us(max_event_time) AS max_event_time_us,
           consumed, applied, duplicate, late, dead, shed
    FROM ledger.offsets ORDER BY topic, partition
"""
LAST = "SELECT id, committed_at::VARCHAR AS committed_at FROM ledger.commits ORDER BY id DESC LIMIT 1"
VIEWS = "SELECT name, version, status, sql FROM ledger.views ORDER BY name, version"


def snapshot(con: duckdb.DuckDBPyConnection, settings: Settings, store: Store, now: datetime | None = None) -> str:
    """Takes a snapshot of what `con` has committed, from a cursor of its own; returns its name.

    The writer may commit meanwhile. Works in TALLY_HOME/export, the only folder a live writer may write to.

    Raises:
        WarehouseError: another snapshot is being taken, or DuckDB refused; nothing was stored as a snapshot.
        StoreError: the object store refused; the part that was stored has no manifest and is never restored.
    """
    key = key_from_environment()
    taken = now or datetime.now(UTC).replace(tzinfo=None)
    name = new_name(taken)
    with _scratch(settings, name) as folder:
        facts = _export(con, folder)
        hit("snapshot.after_export")
        files = [_upload(store, name, path, key) for path in sorted(folder.iterdir())]
        manifest = Manifest(
            name=name,
            taken_at=taken.isoformat() + "Z",
            tallystream=__version__,
            duckdb=duckdb.__version__,
            key_id=None if key is None else key.id,
            files=files,
            **facts,
        )
        hit("snapshot.before_manifest")
        store.put(path_of(name, MANIFEST), manifest.encode(key), create=True)
        hit("snapshot.after_manifest")
    return name


@contextmanager
def open_at_rest(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse read-only, where no stream runs; the caller holds the run lock.

    Raises:
        WarehouseError: another process holds the file, or it is no warehouse.
    """
    con = connect(settings.warehouse, read_only=True)
    refuse_unprepared(con, settings.warehouse)
    try:
        yield con
    finally:
        con.close()


@contextmanager
def _scratch(settings: Settings, name: str) -> Iterator[Path]:
    """A folder for one snapshot at a time; what a crash left of an earlier one is removed."""
    root = settings.root / "export"
    root.mkdir(parents=True, exist_ok=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "snapshot.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WarehouseError("another snapshot is being taken; take this one when it is done") from None
        for left in root.iterdir():
            shutil.rmtree(left)
        folder = root / name
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _export(con: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, Any]:
    """Writes one committed state into a new folder, and says what is in it."""
    cursor = con.cursor()
    try:
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            facts = _facts(cursor)
            export.write(cursor, folder)
        finally:
            cursor.execute("ROLLBACK")
    except duckdb.Error as error:
        raise WarehouseError(
            f"the warehouse could not be exported to {folder}: {error}; no snapshot was taken"
        ) from error
    finally:
        cursor.close()
    return facts


def _facts(cursor: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """All that the manifest says of the committed state, read in the transaction that exports it."""
    version = cursor.execute("SELECT max(version) FROM main.tallystream_schema").fetchone()
    last = _dicts(cursor, LAST)
    return {
        "schema_version": int(version[0]) if version and version[0] is not None else 0,
        "last_commit": last[0] if last else None,
        "offsets": _dicts(cursor, OFFSETS),
        "topics": dict(cursor.execute("SELECT topic, topic_id FROM ledger.topics ORDER BY 1").fetchall()),
        "views": _dicts(cursor, VIEWS),
        "tables": tables_of(cursor),
    }


def tables_of(con: duckdb.DuckDBPyConnection) -> list[Table]:
    """Every table of the database with its rows counted and hashed; equal tables have equal ones."""
    found = []
    for schema, name in export.tables(con):
        row = con.execute(
            f'SELECT count(*), coalesce(sum(hash("_row")::HUGEINT), 0)::VARCHAR FROM {export.quote(schema)}.{export.quote(name)} AS "_row"'
        ).fetchone()
        assert row is not None
        found.append(Table(schema, name, int(row[0]), str(row[1])))
    return found


def _upload(store: Store, name: str, path: Path, key: Key | None) -> File:
    """Seals a file when there is a key, and stores it."""
    if key is not None:
        sealed = path.with_name(path.name + ".sealed")
        key.seal(path, sealed, path_of(name, path.name))
        sealed.replace(path)
    digest = digest_of(path)
    store.put(path_of(name, path.name), path)
    hit("snapshot.after_file")
    return File(path.name, digest.size, digest.sha256)


def _dicts(con: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    result = con.execute(query)
    names = [d[0] for d in result.description or []]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
