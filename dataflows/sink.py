"""Sink: buffers Deltas, and commits them at the epoch barrier, in one transaction."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from tallystream.job import Job
from dataflows.operators import SINK_KEY
from tallystream.failpoints import hit
from tallystream.topics.batch import Delta
from tallystream.topics.mirror import OffsetMirror
from tallystream.warehouse.writer import Writer


class WarehousePartition(StatefulSinkPartition[Delta, None]):
    """The one writer: owns the DuckDB file while the flow runs, and serves it to readers."""

    def __init__(self, job: Job):
        self._deltas: list[Delta] = []
        self._mirror = OffsetMirror(job.kafka)
        self._writer = Writer(job.settings, job.plans)
        self._writer.open()

    def write_batch(self, values: list[Delta]) -> None:
        """Keeps the Deltas for the commit."""
        self._deltas += values
        hit("sink.write_batch")

    def snapshot(self) -> None:
        """The epoch barrier: commit, then mirror the offsets for lag tools."""
        if not self._deltas:
            return
        deltas, self._deltas = self._deltas, []
        self._writer.commit(deltas, datetime.now(UTC).replace(tzinfo=None))
        hit("mirror.before")
        self._mirror.send({(d.topic, d.partition): d.next for d in deltas if not d.building})
        hit("mirror.after")

    def close(self) -> None:
        """Lets go of the file; never commits: Bytewax calls this with writes that no epoch holds."""
        self._deltas = []
        with contextlib.ExitStack() as stack:
            stack.callback(self._mirror.close)
            stack.callback(self._writer.close)


class WarehouseSink(FixedPartitionedSink[Delta, None]):
    """One partition, in process 0."""

    def __init__(self, job: Job):
        self._job = job

    def list_parts(self) -> list[str]:
        """Process 0 has the file; the others have nothing to write to."""
        return [SINK_KEY] if self._job.process == 0 else []

    def part_fn(self, item_key: str) -> int:
        """All goes to the one partition."""
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> WarehousePartition:
        """Opens the warehouse."""
        return WarehousePartition(self._job)
