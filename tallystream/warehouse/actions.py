"""What the admin API does for recovery while a stream runs: the same functions as at rest, on the writer's connection."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from tallystream.errors import UsageError
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.warehouse.archive_read import FullHistory
from tallystream.warehouse.compact import compact
from tallystream.warehouse.promote import promote, undo
from tallystream.warehouse.redrive import live_plans, redrive
from tallystream.warehouse.redriven import TABLES, Kind
from tallystream.warehouse.snapshot import snapshot

Action = Callable[[dict[str, Any]], dict[str, Any]]


def recovery_actions(
    con: duckdb.DuckDBPyConnection, settings: Settings, lock: AbstractContextManager[object], *, live: bool = True
) -> dict[str, Action]:
    """Actions by name: `snapshot` {} -> {"name"}, `redrive` {"kind", "where"} -> a Summary, `compact` {} -> sizes.

    `lock` is the one that the writer's commits hold: a redrive works on its connection between two of them. A
    snapshot needs none, it has a cursor of its own.
    """

    def take_snapshot(_body: dict[str, Any]) -> dict[str, Any]:
        return {"name": snapshot(con, settings, open_store(settings))}

    def drive_again(body: dict[str, Any]) -> dict[str, Any]:
        kind: Kind | None = next((k for k in TABLES if k == body.get("kind")), None)
        if kind is None:
            raise UsageError(f"say which rows to redrive: {' or '.join(TABLES)}, not {body.get('kind')}")
        now = datetime.now(UTC).replace(tzinfo=None)
        history = FullHistory(settings, open_store(settings))
        return asdict(redrive(con, settings, kind, body.get("where"), now, history, lock, live))

    def make_compact(_body: dict[str, Any]) -> dict[str, Any]:
        with lock:
            plans = live_plans(con)
        return compact(con, settings, plans, lock, datetime.now(UTC).replace(tzinfo=None))

    def swap_in(body: dict[str, Any]) -> dict[str, Any]:
        folder = Path(str(body.get("folder"))).resolve()
        if folder.parent != settings.root / "sandboxes":
            raise UsageError(f"{folder} is no sandbox of this warehouse")
        return promote(con, folder, lock, datetime.now(UTC).replace(tzinfo=None))

    def swap_back(body: dict[str, Any]) -> dict[str, Any]:
        number = body.get("id")
        if not isinstance(number, int):
            raise UsageError(f"{number} is no number of a promotion")
        return undo(con, number, lock, datetime.now(UTC).replace(tzinfo=None))

    return {
        "snapshot": take_snapshot,
        "redrive": drive_again,
        "compact": make_compact,
        "promote": swap_in,
        "undo": swap_back,
    }
