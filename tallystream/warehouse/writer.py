"""The writer process: one connection that commits, one server for readers, one for control."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import duckdb

from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.topics.batch import Delta
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.actions import recovery_actions
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.compactor import Compactor
from tallystream.warehouse.extensions import open_warehouse
from tallystream.warehouse.metrics import Metrics
from tallystream.warehouse.serve import LiveServer

# Seconds between tries of a commit that found no memory: the query that has it ends, or fails, within seconds.
MEMORY_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Writer:
    """Owns the DuckDB file while a stream runs.

    Commits come from one thread; readers and control work on cursors of the same database.
    """

    def __init__(self, settings: Settings, plans: Mapping[str, ViewPlan]):
        self._settings = settings
        self._plans = dict(plans)
        self._metrics = Metrics()
        self._stack = contextlib.ExitStack()
        self._last_commit: tuple[int, float] | None = None
        self._positions: dict[str, int] = {}
        self._committer: Committer | None = None
        self._server: LiveServer | None = None
        # Held by a commit, and by an action between two of them that writes on the same connection.
        self._lock = threading.Lock()

    def open(self) -> None:
        """Opens the file and serves it.

        Raises:
            WarehouseError: another process holds the file.
        """
        s = self._settings
        con = open_warehouse(s)
        self._stack.callback(con.close)
        positions = con.execute("SELECT topic || '/' || partition, next_offset FROM ledger.offsets").fetchall()
        self._positions = dict(positions)
        self._committer = Committer(con, self._plans, s.lateness * 1_000_000, s.horizon * 1_000_000)
        actions = recovery_actions(con, s, self._lock)
        compactor = Compactor(lambda: actions["compact"]({}))
        server = LiveServer(con, s, health=self.health, registry=self._metrics.registry, actions=actions)
        server.start()
        self._server = server
        self._stack.callback(server.stop)
        compactor.start()
        self._stack.callback(compactor.stop)

    def commit(self, deltas: Sequence[Delta], now: datetime) -> None:
        """One transaction; see `Committer.commit`.

        Readers' queries and commits share one database's memory. When a query takes all of it the commit is rolled back,
        and tried again while the query fails too: a SELECT must not stop the stream.

        Raises:
            WarehouseError: it was rolled back, and would be again.
        """
        if self._committer is None:
            raise WarehouseError("the writer is not open")
        began = time.perf_counter()
        for pause in (*MEMORY_PAUSES, None):
            try:
                with self._lock:
                    number = self._committer.commit(deltas, now)
                break
            except WarehouseError as error:
                if pause is None or not isinstance(error.__cause__, duckdb.OutOfMemoryException):
                    raise
                self._metrics.out_of_memory()
                time.sleep(pause)
        self._metrics.committed(deltas, time.perf_counter() - began)
        self._positions.update({f"{d.topic}/{d.partition}": d.next for d in deltas if not d.building})
        self._last_commit = number, time.monotonic()

    def health(self) -> dict[str, Any]:
        """For GET /health: who writes, and how long ago it last committed (seconds)."""
        number, at = self._last_commit or (None, None)
        return {
            "pid": os.getpid(),
            "last_commit": number,
            "last_commit_age_seconds": None if at is None else round(time.monotonic() - at, 3),
            "commit_seconds": self._metrics.commit_seconds(),
            "positions": dict(self._positions),
            "query_seconds": self._queries(),
        }

    def _queries(self) -> list[float]:
        try:
            return [] if self._server is None else [round(s, 1) for s in self._server.query_seconds()]
        except duckdb.Error:
            return []  # it stops, or has no memory: health must be told all the same

    def close(self) -> None:
        """Stops serving and lets go of the file; what is not committed is gone."""
        self._stack.close()
