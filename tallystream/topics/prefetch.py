"""Reads ahead: one thread of a process gathers the next batches of its partitions while the last ones are worked on.

Handing messages over costs Python time, decoding and tallying release its lock: together they keep two cores busy.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from tallystream.topics.batch import RawBatch
from tallystream.topics.reader import MAX_BYTES, MAX_MESSAGES, PartitionReader

DEPTH = 2  # batches kept ready for a partition: one is worked on, one is waiting; and one more while they are small
IDLE = 0.005  # seconds between two looks when no partition had anything new
# A batch costs the flow some tens of milliseconds however small it is: one that waits grows, up to so many messages and bytes.
GROWS_TO = MAX_MESSAGES // 2
GROWS_TO_BYTES = MAX_BYTES // 2


class Lane:
    """One partition's batches, read ahead in log order."""

    def __init__(self, reader: PartitionReader, stop_at: Callable[[int], int | None], wake: threading.Event):
        self._reader = reader
        self._stop_at = stop_at
        self._wake = wake
        self._ready: deque[RawBatch] = deque()
        self._error: BaseException | None = None
        self._room = 0  # bytes by which the last batch in `_ready` may yet grow
        # Set when the last batch is in `_ready`: the reader itself is at its end a moment before that.
        self._finished = False
        self.closed = False

    @property
    def done(self) -> bool:
        """A bounded read has reached its end, and everything read was taken."""
        return self._finished and not self._ready

    def take(self) -> RawBatch | None:
        """The next batch; None when there is none yet.

        Raises:
            BrokerError: what the reader met, after all that it had read before was taken.
        """
        try:
            batch = self._ready.popleft()
        except IndexError:
            if self._error is not None:
                raise self._error from None
            return None
        self._wake.set()
        return batch

    def fill(self) -> bool:
        """Reads one batch when there is room, in the reading thread; whether there is one more now."""
        if self._error is not None or self._finished or (len(self._ready) >= DEPTH and not self._room):
            return False
        if self._reader.done:
            self._finished = True
            return False
        try:
            batch = self._reader.read(stop_at=self._stop_at(self._reader.position))
        except BaseException as error:
            self._error = error
            return False
        return batch is not None and self._keep(batch)

    def _keep(self, batch: RawBatch) -> bool:
        """Behind the others, True; or as the end of the last of them, unless the flow has taken it: False."""
        size = sum(map(len, filter(None, batch.values)))
        # A batch read again for a view being built ends where another begins to count.
        room = GROWS_TO_BYTES - size if self._stop_at(batch.first) is None and len(batch.values) < GROWS_TO else 0
        waiting = None
        if self._room > 0 and room > 0:
            with contextlib.suppress(IndexError):
                waiting = self._ready.pop()
        if waiting is None:
            self._room = max(0, room)
            self._ready.append(batch)
            return True
        grown = waiting.joined(batch)
        self._room = max(0, self._room - size) if len(grown.values) < GROWS_TO else 0
        self._ready.append(grown)
        return False

    def leave(self) -> None:
        """Leaves the broker, in the reading thread."""
        self._reader.close()


class Prefetch:
    """The reading thread of one process and the lanes it fills in turn."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, reader: PartitionReader, stop_at: Callable[[int], int | None]) -> Lane:
        """Begins to read ahead; `stop_at(position)` gives the offset that a batch from there may not pass."""
        lane = Lane(reader, stop_at, self._changed)
        with self._lock:
            self._lanes.append(lane)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tally-read", daemon=True)
                self._thread.start()
        return lane

    def remove(self, lane: Lane) -> None:
        """Ends a lane; the thread closes its consumer, and ends with the last one."""
        lane.closed = True
        self._changed.set()
        thread = self._thread
        if thread is not None and all(other.closed for other in self._lanes):
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                for lane in [lane for lane in self._lanes if lane.closed]:
                    lane.leave()
                    self._lanes.remove(lane)
                if not self._lanes:
                    self._thread = None
                    return
                lanes = list(self._lanes)
            # Every lane gets its turn: one long backlog must not starve the others.
            found = [lane.fill() for lane in lanes]
            if not any(found):
                self._changed.wait(IDLE)
                self._changed.clear()
