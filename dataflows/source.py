"""Source: one Bytewax item is one batch, all messages of one partition for offsets [first, next)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from dataflows.faults import guarded
from dataflows.stop import stopping
from tallystream.failpoints import hit
from tallystream.job import Job, Work
from tallystream.topics.prefetch import Prefetch
from tallystream.topics.reader import PartitionReader
from tallystream.warehouse.prepare import PartitionStart

# What one partition may put into one epoch: beyond it the source waits for the commit, so that memory
# does not grow with the backlog. About a second of one partition at full speed.
EPOCH_MESSAGES = 1_000_000
EPOCH_BYTES = 256 << 20
READING = Prefetch()  # one thread a process
IDLE = timedelta(milliseconds=10)  # far below the epoch interval: Bytewax commits only when a source wakes


class PartitionSource(StatefulSourcePartition[Work, None]):
    """Reads one partition: first again for views being built, then on, for all."""

    def __init__(self, job: Job, start: PartitionStart):
        self._job = job
        self._start = start
        reader = PartitionReader(job.kafka, start.topic, start.partition, start.build_from, start.until, job.rests)
        self._lane = READING.add(reader, start.stop_after)
        self._messages = self._bytes = 0
        self._idle = False

    @guarded
    def next_batch(self) -> Iterable[Work]:
        """At most one batch; StopIteration at the end of a bounded run, or when asked to end.

        Raises:
            BrokerError: the log cannot be read on.
        """
        self._idle = False
        if stopping() or self._lane.done:
            raise StopIteration
        if self._messages >= EPOCH_MESSAGES or self._bytes >= EPOCH_BYTES:
            self._idle = True
            return []
        hit("source.before_read")
        batch = self._lane.take()
        self._job.check_broker()
        if batch is None:
            self._idle = True
            return []
        hit("source.after_read")
        self._messages += len(batch.values)
        self._bytes += sum(len(v) for v in batch.values if v is not None)
        building = batch.first < self._start.live_from
        return [Work(self._start.building if building else frozenset(), batch)]

    def next_awake(self) -> datetime | None:
        """Soon when there was nothing, at once otherwise."""
        return datetime.now(UTC) + IDLE if self._idle else None

    def snapshot(self) -> None:
        """An epoch ends: its share is free again. Offsets live in the warehouse, not here."""
        hit("source.snapshot")
        self._messages = self._bytes = 0

    def close(self) -> None:
        """Leaves the broker."""
        READING.remove(self._lane)


class TopicSource(FixedPartitionedSource[Work, None]):
    """The partitions of one topic that this process reads."""

    def __init__(self, job: Job, topic: str):
        self._job = job
        self._starts = {f"{s.topic}-{s.partition}": s for s in job.mine(topic)}

    def list_parts(self) -> list[str]:
        """Only this process's own: Bytewax then leaves each partition where it is."""
        return list(self._starts)

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> PartitionSource:
        """Opens the consumer of one partition."""
        return PartitionSource(self._job, self._starts[for_part])
