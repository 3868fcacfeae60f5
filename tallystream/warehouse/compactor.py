"""Compaction now and then while a stream runs, in a thread of the writer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import duckdb

from tallystream.errors import TallyError

EVERY = 60.0  # seconds: hot tables stay as small as a minute's final windows and the open ones


class Compactor:
    """Calls `run` every so often from a thread of its own, until it is stopped.

    A compaction that fails is told on stderr and tried again the next time: the stream is more important.
    """

    def __init__(self, run: Callable[[], object], every: float = EVERY):
        self._run = run
        self._every = every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tally-compact", daemon=True)

    def start(self) -> None:
        """Begins to wait for the first time."""
        self._thread.start()

    def stop(self) -> None:
        """Waits for the compaction under way."""
        self._stopped.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopped.wait(self._every):
            try:
                self._run()
            except (duckdb.Error, TallyError) as error:
                print(
                    f"compaction: {error}; nothing was lost, it is tried again in {self._every:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
