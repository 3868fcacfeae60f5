"""Sink: buffers Deltas, and commits them at the epoch barrier, in one transaction."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.faults import guarded
from dataflows.operators import SINK_KEY
from tallystream.failpoints import hit
from tallystream.job import Job
from tallystream.topics.batch import Delta
from tallystream.topics.mirror import OffsetMirror
from tallystream.warehouse.writer import Writer

# Messages that may wait for a commit; then the flow waits too, and memory stays bounded: a message takes up to a few KB.
WAITING = 500_000
FAILED: list[BaseException] = []  # the last commit, when it failed after the flow's end


class WarehousePartition(StatefulSinkPartition[list[Delta], None]):
    """Gathers an epoch's Deltas for the one writer.

    A commit runs beside the next epoch's reading and decoding, one at a time and in order. Epochs that end
    meanwhile wait and share the next one: under load commits grow, and none is waited for until too much waits.
    What an epoch has read counts when its commit is in the file, whatever Bytewax thinks of the epoch by then.
    """

    def __init__(self, job: Job, writer: Writer):
        self._open: list[Delta] = []  # of the epoch under way
        self._ended: list[Delta] = []  # of epochs that have ended, not yet with a commit
        self._mirror = OffsetMirror(job.kafka, job.settings.mirror_seconds)
        self._writer = writer
        self._committing = ThreadPoolExecutor(1, "tally-commit")
        self._commit: Future[None] | None = None
        # Of _ended and _running: the commit's thread takes what has ended meanwhile.
        self._changed = threading.Condition()
        self._running = False

    def write_batch(self, values: list[list[Delta]]) -> None:
        """Keeps the Deltas for the commit; those of one list come into one, for they share their partials."""
        for deltas in values:
            self._open += deltas
        hit("sink.write_batch")

    def snapshot(self) -> None:
        """The epoch barrier: its Deltas go to the next commit, which begins when the one before it has ended.

        Raises:
            TallyError: the commit before this one failed; it was rolled back, and nothing of this one is tried.
        """
        hit("sink.snapshot")
        with self._changed:
            self._ended += self._open
            self._open = []
            # Until the commit under way takes what waits, not until all is committed: the next batches are made meanwhile.
            while self._running and sum(d.consumed for d in self._ended) > WAITING:
                self._changed.wait()
            running = self._running
        if self._commit is not None and not running:
            self._commit.result()
        self._begin()

    def _begin(self) -> None:
        with self._changed:
            if self._running or not self._ended:
                return
            self._running = True
        self._commit = self._committing.submit(self._commit_all)

    def _commit_all(self) -> None:
        """Commits until nothing has ended meanwhile.

        Not left to the next `snapshot`: Bytewax calls it for epochs with events only, and the last events before a
        pause would wait for the first ones after it.
        """
        try:
            while True:
                with self._changed:
                    deltas, self._ended = self._ended, []
                    self._running = bool(deltas)
                    self._changed.notify_all()
                if not deltas:
                    return
                self._commit_and_mirror(deltas)
        except BaseException:
            with self._changed:
                self._running = False
                self._changed.notify_all()
            raise

    def _commit_and_mirror(self, deltas: list[Delta]) -> None:
        self._writer.commit(deltas, datetime.now(UTC).replace(tzinfo=None))
        hit("mirror.before")
        self._mirror.send({(d.topic, d.partition): d.next for d in deltas if not d.building})
        hit("mirror.after")

    def close(self) -> None:
        """Ends with the commit of the epochs that have ended; never of writes that no epoch holds.

        Bytewax calls this on errors too, and drops what it raises: a commit that fails here is kept for `main`
        in `FAILED`.
        """
        self._open = []
        try:
            if self._commit is not None:
                self._commit.result()
            self._begin()
            if self._commit is not None:
                self._commit.result()
        except BaseException as error:
            FAILED.append(error)
        finally:
            self._committing.shutdown()
            self._mirror.close()


class WarehouseSink(FixedPartitionedSink[list[Delta], None]):
    """One partition, in process 0, which owns the `writer`; the others have none."""

    def __init__(self, job: Job, writer: Writer | None):
        self._job = job
        self._writer = writer

    def list_parts(self) -> list[str]:
        """Process 0 has the file; the others have nothing to write to."""
        return [SINK_KEY] if self._writer is not None else []

    def part_fn(self, item_key: str) -> int:
        """All goes to the one partition."""
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> WarehousePartition:
        """Called at the first Delta, which can be hours after the start: the writer serves readers long before."""
        assert self._writer is not None
        partition = WarehousePartition(self._job, self._writer)
        partition.snapshot = guarded(partition.snapshot)  # type: ignore[method-assign]
        return partition
