"""Restore: a snapshot becomes the warehouse of an empty TALLY_HOME, whole or not at all.

Nothing is built before every byte is proved, and nothing is in place before the built file is proved
row for row: kill it anywhere, and the home is as empty as before; run it again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from tallystream.database import connect
from tallystream.errors import WarehouseError
from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.store.objects import MissingError, Store, sync
from tallystream.store.seal import Key, SealError, key_from_environment
from tallystream.warehouse import export
from tallystream.warehouse.manifest import DamagedError, Found, Manifest, SealedError, catalog, path_of
from tallystream.warehouse.schema import MIGRATIONS
from tallystream.warehouse.snapshot import tables_of


@dataclass(frozen=True)
class Restored:
    """What was restored, and why newer snapshots were not (one sentence each)."""

    manifest: Manifest
    passed_over: list[str]


def restore(settings: Settings, store: Store, name: str | None = None, at: datetime | None = None) -> Restored:
    """Builds the warehouse from a snapshot: the newest undamaged one, or the newest taken at or before `at` (UTC).

    The caller holds the run lock. A snapshot asked for by name is restored or refused, never replaced.

    Raises:
        WarehouseError: the home has a warehouse, or no snapshot can be restored; what is wrong with each is
            said, and which one is whole. The home is unchanged.
        StoreError: the object store does not answer.
    """
    for file in (settings.warehouse, settings.warehouse.with_name(settings.warehouse.name + ".wal")):
        if file.exists():
            raise WarehouseError(
                f"{file} exists: a restore needs a TALLY_HOME without a warehouse, and changed nothing; "
                "move the file away first, or restore into another TALLY_HOME"
            )
    key = key_from_environment()
    found = catalog(store, key)
    if name is not None:
        return Restored(_named(settings, store, key, found, name), [])
    wanted = [f for f in found if at is None or f.taken_at <= at]
    if not wanted:
        oldest = f"; the oldest is {found[0].name}" if found else ""
        raise WarehouseError(f"{store.url} has no snapshot{' taken at or before that time' if at else ''}{oldest}")
    passed: list[str] = []
    for candidate in reversed(wanted):
        try:
            return Restored(_try(settings, store, key, candidate), passed)
        except SealedError as error:
            # An older one that opens would silently lose the time since: a person must say so.
            raise SealedError(f"{error}{_offer(found, candidate.name)}") from None
        except DamagedError as error:
            passed.append(str(error))
    raise DamagedError(f"no snapshot can be restored: {'; '.join(passed)}")


def _named(settings: Settings, store: Store, key: Key | None, found: list[Found], name: str) -> Manifest:
    chosen = next((f for f in found if f.name == name), None)
    if chosen is None:
        raise MissingError(f"{store.url} has no snapshot {name}; `tally snapshot --list` shows what there is")
    try:
        return _try(settings, store, key, chosen)
    except (DamagedError, SealedError) as error:
        raise type(error)(f"{error}; it was not restored{_offer(found, name)}") from None


def _offer(found: list[Found], name: str) -> str:
    """The one before, if there is one that looks whole: its manifest and sizes; the restore reads every byte."""
    older = [f.name for f in found if f.name < name and f.good]
    return f"; the one before it looks whole: `tally restore {older[-1]}`" if older else "; no older one looks whole"


def _try(settings: Settings, store: Store, key: Key | None, found: Found) -> Manifest:
    if found.manifest is None:
        raise found.problem or DamagedError(f"snapshot {found.name} has no manifest")
    if found.manifest.schema_version > len(MIGRATIONS):
        raise WarehouseError(
            f"snapshot {found.name} has schema version {found.manifest.schema_version}, this Tallystream knows "
            f"{len(MIGRATIONS)}; nothing was restored: use the Tallystream that took it ({found.manifest.tallystream})"
        )
    scratch = settings.root / "restore"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        files = scratch / "files"
        fetch(store, key, found.manifest, files)
        hit("restore.after_fetch")
        built = scratch / settings.warehouse.name
        build(found.manifest, files, built)
        hit("restore.after_build")
        sync(built)
        built.rename(settings.warehouse)
        hit("restore.after_rename")
        sync(settings.root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return found.manifest


def fetch(store: Store, key: Key | None, manifest: Manifest, folder: Path) -> None:
    """Copies a snapshot's files into a new folder, each compared with the manifest and opened.

    Raises:
        DamagedError: a file is missing or is not what was stored; nothing in the folder may be used.
    """
    folder.mkdir()
    for file in manifest.files:
        path, target = path_of(manifest.name, file.path), folder / file.path
        try:
            digest = store.fetch(path, target)
        except MissingError:
            raise DamagedError(f"snapshot {manifest.name}: the file {file.path} is missing") from None
        if (digest.size, digest.sha256) != (file.size, file.sha256):
            raise DamagedError(
                f"snapshot {manifest.name}: {file.path} was changed after it was written "
                f"(sha256 {digest.sha256[:12]}…, not {file.sha256[:12]}…)"
            )
        if manifest.key_id is not None and key is not None:
            sealed = target.with_name(target.name + ".sealed")
            target.rename(sealed)
            try:
                key.open(sealed, target, path)
            except SealError as error:
                raise DamagedError(f"snapshot {manifest.name}: {error}") from None
            sealed.unlink()
        hit("restore.after_file")


def build(manifest: Manifest, files: Path, target: Path) -> None:
    """Makes a DuckDB file of fetched files, and proves it: every table has the rows that were exported.

    Raises:
        DamagedError: the result is not what was exported.
    """
    con = connect(target)
    try:
        export.define(con, (files / "schema.sql").read_text())
        hit("restore.after_schema")
        export.load(con, files)
        _prove(con, manifest)
    except duckdb.Error as error:
        raise DamagedError(f"snapshot {manifest.name} could not be built: {error}") from None
    finally:
        con.close()


def _prove(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
    made = {(t.schema, t.name): t for t in tables_of(con)}
    told = {(t.schema, t.name): t for t in manifest.tables}
    # hash() is DuckDB's own and may change with it: between versions, rows are counted only.
    same = manifest.duckdb == duckdb.__version__
    for at in sorted(made.keys() | told.keys()):
        a, b = made.get(at), told.get(at)
        if a is None or b is None or a.rows != b.rows or (same and a.hash != b.hash):
            raise DamagedError(
                f"snapshot {manifest.name}: {'.'.join(at)} came back with {a.rows if a else 'no'} rows, "
                f"not the {b.rows if b else 'no'} that were exported, or with other values"
            )
