"""What commands and jobs do alike: a snapshot, the archive's next files, a compaction; live or at rest."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.store.objects import Store
from tallystream.warehouse.actions import recovery_actions
from tallystream.warehouse.archive import TARGETS, Archived, Target, archive
from tallystream.warehouse.control import ask_writer, open_prepared, run_lock
from tallystream.warehouse.read import open_reader
from tallystream.warehouse.snapshot import open_at_rest, snapshot


def take_snapshot(settings: Settings, store: Store) -> str:
    """Takes a snapshot by the writer of the running stream, or of the file at rest; returns its name.

    Raises:
        WarehouseError: there is no warehouse, or another snapshot is being taken; nothing was stored as a snapshot.
        StoreError: the object store refused; what it holds of this one has no manifest and is never restored.
    """
    if not settings.warehouse.exists():
        raise WarehouseError(
            f"there is no warehouse at {settings.warehouse} to take a snapshot of; `tally run` makes one"
        )
    answer = ask_writer(settings, "snapshot", {})
    if answer is not None:
        return str(answer["name"])
    with run_lock(settings), open_at_rest(settings) as con:
        return snapshot(con, settings, store)


def archive_committed(settings: Settings, store: Store) -> Archived:
    """Copies the log up to the committed offsets into the archive; see `archive`.

    Raises:
        WarehouseError: there is no warehouse, another archiver is at work, or an index is damaged.
    """
    if not settings.warehouse.exists():
        raise WarehouseError(
            f"there is no warehouse at {settings.warehouse}: only what was tallied is archived; `tally run` comes first"
        )
    with open_reader(settings) as reader:
        _, _, rows = reader.rows(TARGETS)
    return archive(settings, store, [Target(*row) for row in rows])


def compact_now(settings: Settings) -> dict[str, Any]:
    """Final rows go cold, books are shortened, the file is checkpointed; see `compact` for what is told.

    Raises:
        WarehouseError: there is no warehouse, or the writer died meanwhile; running it again is safe.
    """
    if not settings.warehouse.exists():
        raise WarehouseError(
            f"there is no warehouse at {settings.warehouse}, so nothing to compact; `tally run` comes first"
        )
    answer = ask_writer(settings, "compact", {})
    if answer is not None:
        return answer
    with run_lock(settings), open_prepared(settings) as con:
        return recovery_actions(con, settings, contextlib.nullcontext(), live=False)["compact"]({})


def redrive_now(settings: Settings, kind: str, where: str | None) -> dict[str, Any]:
    """Puts late or dead rows back into the views, each once; rows by what became of them, see `Summary`.

    Raises:
        WarehouseError: there is no warehouse, or its views are not those of this code; nothing was changed.
        QueryError: `where` is no condition over the table's columns; nothing was changed.
    """
    if not settings.warehouse.exists():
        raise WarehouseError(
            f"there is no warehouse at {settings.warehouse}, so nothing to redrive; `tally run` comes first"
        )
    return _by_the_writer(settings, "redrive", {"kind": kind, "where": where})


def promote_now(settings: Settings, folder: Path) -> dict[str, Any]:
    """Swaps the changes saved in a sandbox's folder into the views, in one transaction; {"id", "views", "refused"}.

    Raises:
        WarehouseError: the live rows are not those that were compared any more; nothing was changed.
    """
    return _by_the_writer(settings, "promote", {"folder": str(folder)})


def undo_now(settings: Settings, promotion: int) -> dict[str, Any]:
    """Puts back what a promotion replaced; {"id", "views"}.

    Raises:
        WarehouseError: there is no such promotion, or its rows have changed since; nothing was changed.
    """
    return _by_the_writer(settings, "undo", {"id": promotion})


def _by_the_writer(settings: Settings, action: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = ask_writer(settings, action, body)
    if answer is not None:
        return answer
    with run_lock(settings), open_prepared(settings) as con:
        return recovery_actions(con, settings, contextlib.nullcontext(), live=False)[action](body)
