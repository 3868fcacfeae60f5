"""The engine without Kafka and without Bytewax: messages in, commits out, restarts wherever a test likes."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import numpy as np

from tallystream.database import connect
from tallystream.settings import Settings
from tallystream.topics.batch import Delta, RawBatch
from tallystream.topics.decode import Decoder
from tallystream.topics.judge import Judge, Rules
from tallystream.topics.registry import FolderRegistry
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan
from tallystream.views.tally import Tallier
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.prepare import TopicLog, prepare
from tallystream.warehouse.schema import migrate
from tests.oracle.books import schemas
from tests.oracle.judging import Message

SCHEMA_ID = {"orders": 1, "clicks": 2}
SCHEMAS = schemas()
NOW = datetime(2026, 1, 1)


def encode(topic: str, event: dict[str, Any]) -> bytes:
    """An event in the Confluent wire format, by fastavro."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMAS[SCHEMA_ID[topic]], event)
    return b"\0" + SCHEMA_ID[topic].to_bytes(4, "big") + out.getvalue()


class Stream:
    """Logs of two topics, and an engine that reads them in whatever steps the test takes."""

    def __init__(self, home: Path, logs: dict[str, dict[int, list[Message]]], lateness: int, horizon: int):
        self.logs = logs
        self.home = home
        self.judge_by(lateness, horizon)
        self.registry = FolderRegistry()
        self.decoders = {t: Decoder(t, self.registry) for t in logs}
        self.con: duckdb.DuckDBPyConnection | None = None
        home.mkdir(parents=True, exist_ok=True)

    def judge_by(self, lateness: int, horizon: int) -> None:
        """The rules from the next start on."""
        self.settings = Settings(home=self.home, lateness=lateness, dedup_horizon=horizon)
        self.rules = Rules(lateness * 10**6, horizon * 10**6, self.settings.max_ahead * 10**6)

    def start(self, plans: dict[str, ViewPlan] | None = None) -> None:
        """As after a crash: all that is known comes from the file."""
        if self.con is not None:
            self.con.close()
        self.con = connect(self.settings.warehouse)
        migrate(self.con)
        self.plans = load_views() if plans is None else plans
        found = {t: TopicLog(None, {p: (0, len(m)) for p, m in by.items()}) for t, by in self.logs.items()}
        self.starts = {(s.topic, s.partition): s for s in prepare(self.con, self.plans, found, self.settings, NOW)}
        self.judges = {key: Judge(*key, self.rules, s.max_event_time, s.memory) for key, s in self.starts.items()}
        self.building = {key: Judge(*key, s.rules.at(0)) for key, s in self.starts.items()}
        self.position = {key: s.build_from for key, s in self.starts.items()}
        self.tallier = Tallier(self.plans, threads=1)
        self.committer = Committer(self.con, self.plans, self.rules.lateness_us, self.rules.horizon_us)

    def read(self, topic: str, partition: int, n: int) -> Delta | None:
        """The Delta of the next `n` messages of a partition at most; None at its end."""
        start = self.starts[topic, partition]
        first = self.position[topic, partition]
        log = self.logs[topic][partition]
        stop = start.stop_after(first) or len(log)
        messages = log[first : min(first + n, stop)]
        if not messages:
            return None
        views = start.building if first < start.live_from else frozenset()
        raw = RawBatch(
            topic,
            partition,
            first,
            first + len(messages),
            np.array([m.offset for m in messages]),
            np.array([-1 if m.stamp is None else m.stamp for m in messages]),
            [m.key for m in messages],
            [m.value for m in messages],
        )
        self.position[topic, partition] = raw.next
        judge = (self.building if views else self.judges)[topic, partition]
        if views:
            judge.follow(start.rules.at(first))
        b = judge.judge(self.decoders[topic].decode(raw))
        partials = self.tallier.tally(topic, b.applied, views or None)
        return Delta(
            topic, partition, b.first, b.next, b.consumed, b.applied.num_rows, b.duplicate, b.late, b.dead, 0,
            b.memory, b.memory_max_time, b.max_event_time, b.schema_ids, partials, views, b.min_event_time,
        )  # fmt: skip

    def commit(self, deltas: list[Delta]) -> None:
        """One commit."""
        self.committer.commit(deltas, NOW)

    def to_end(self, n: int = 1000) -> None:
        """Reads and commits all that is left."""
        while True:
            deltas = [d for t, p in self.starts if (d := self.read(t, p, n)) is not None]
            if not deltas:
                return
            self.commit(deltas)
