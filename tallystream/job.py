"""What one process of a run must know; the supervisor writes it, each process reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tallystream.errors import BrokerRestartedError
from tallystream.settings import Settings
from tallystream.topics import broker
from tallystream.topics.batch import DecodedBatch, JudgedBatch, RawBatch
from tallystream.topics.client import kafka_config
from tallystream.topics.judge import Rules
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.prepare import PartitionStart


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way; `building`: the views it is read again for, empty on the live way."""

    building: frozenset[str]
    batch: RawBatch | DecodedBatch | JudgedBatch


@dataclass(frozen=True)
class Job:
    """One run: the settings, the views, where each partition starts, and how many processes share it.

    `plans`: what the warehouse was prepared for, whatever the folder's files say by now.
    `broker`: the start of the embedded broker whose log was found to be the one tallied; None for another broker.
    `rests`: whether a reader pauses at the log's end, see `PartitionReader`.
    """

    settings: Settings
    plans: dict[str, ViewPlan]
    starts: list[PartitionStart]
    workers: int
    process: int
    broker: tuple[int, int] | None = None
    rests: bool = True

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """Configuration of every Kafka client of this process."""
        return kafka_config(self.settings)

    @property
    def rules(self) -> Rules:
        """The judge's rules, microseconds."""
        s = self.settings
        return Rules(s.lateness * 1_000_000, s.horizon * 1_000_000, s.max_ahead * 1_000_000)

    def check_broker(self) -> None:
        """Call it with each batch before it is used: what was read of a broker started since may be another log's.

        Raises:
            BrokerRestartedError: it was started again.
        """
        if self.broker is not None and broker.incarnation(self.settings) not in (self.broker, None):
            raise BrokerRestartedError(
                "the embedded broker was started again; nothing was read of it since, the last commit stands, and the run "
                "goes on from there if the log is still the same"
            )

    def topics(self) -> list[str]:
        """The topics of the run."""
        return sorted({start.topic for start in self.starts})

    def mine(self, topic: str) -> list[PartitionStart]:
        """The partitions of `topic` that this process reads: dealt out in turn over all topics."""
        dealt = sorted(self.starts, key=lambda s: (s.topic, s.partition))
        return [s for i, s in enumerate(dealt) if i % self.workers == self.process and s.topic == topic]
