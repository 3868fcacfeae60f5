"""Sink: buffers Deltas, and commits them at the epoch barrier, in one transaction."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from dataflows.operators import SINK_KEY
from tallystream.failpoints import hit
from tallystream.job import Job
from tallystream.topics.batch import Delta
from tallystream.topics.mirror import OffsetMirror
from tallystream.warehouse.writer import Writer

FAILED: list[BaseException] = []  # the last commit, when it failed after the flow's end


class WarehousePartition(StatefulSinkPartition[Delta, None]):
    """Gathers an epoch's Deltas for the one writer.

    A commit runs beside the next epoch's reading and decoding, one at a time and in order. What an epoch
    has read counts when its commit is in the file, whatever Bytewax thinks of the epoch meanwhile.
    """

    def __init__(self, job: Job, writer: Writer):
        self._deltas: list[Delta] = []
        self._mirror = OffsetMirror(job.kafka)
        self._writer = writer
        self._committing = ThreadPoolExecutor(1, "tally-commit")
        self._commit: Future[None] | None = None

    def write_batch(self, values: list[Delta]) -> None:
        """Keeps the Deltas for the commit."""
        self._deltas += values
        hit("sink.write_batch")

    def snapshot(self) -> None:
        """The epoch barrier: hands over to the commit, after the one before it has ended.

        Raises:
            TallyError: the commit before this one failed; it was rolled back, and nothing of this one is tried.
        """
        if self._commit is not None and (self._deltas or self._commit.done()):
            self._commit.result()
            self._commit = None
        if not self._deltas:
            return
        deltas, self._deltas = self._deltas, []
        self._commit = self._committing.submit(self._commit_and_mirror, deltas)

    def _commit_and_mirror(self, deltas: list[Delta]) -> None:
        self._writer.commit(deltas, datetime.now(UTC).replace(tzinfo=None))
        hit("mirror.before")
        self._mirror.send({(d.topic, d.partition): d.next for d in deltas if not d.building})
        hit("mirror.after")

    def close(self) -> None:
        """Waits for the commit under way.

        It begins none: Bytewax calls this with writes that no epoch holds. A commit that failed here is kept
        for `main` in `FAILED`, for Bytewax drops what `close` raises.
        """
        self._deltas = []
        with contextlib.ExitStack() as stack:
            stack.callback(self._mirror.close)
            stack.callback(self._committing.shutdown)
            if self._commit is not None:
                error = self._commit.exception()
                if error is not None:
                    FAILED.append(error)


class WarehouseSink(FixedPartitionedSink[Delta, None]):
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
        return WarehousePartition(self._job, self._writer)
