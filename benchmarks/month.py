"""A month of stream in some minutes: do state, file and commits stay as they were on the first day?

`python -m benchmarks.month [--days 30] [--no-compact]`: real judge, tallies, commits and compaction, in one process without a
broker; each commit holds an hour of a shop's events. Writes docs/benchmarks-month.md and docs/img/month.svg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.month_report import write
from tallystream.settings import PROJECT, load
from tallystream.topics.batch import DEAD_SCHEMA, DecodedBatch, Delta, RawBatch
from tallystream.topics.contracts import contract
from tallystream.topics.judge import Judge, Rules
from tallystream.views.loader import load_views
from tallystream.views.tally import Tallier
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.compact import compact
from tallystream.warehouse.prepare import TopicLog, prepare
from tallystream.warehouse.schema import migrate

START = datetime(2026, 1, 1)
STEP = timedelta(hours=1)  # of event time in one commit
COMPACT_EVERY = 12  # commits: twelve hours
EVENTS = {"clicks": 300, "orders": 40}  # in one commit


def clicks(rng: np.random.Generator, first: int, times: np.ndarray) -> pa.Table:
    """So many clicks of 20,000 users on 2,000 products."""
    n = len(times)
    products = rng.zipf(1.3, n) % 2000
    columns = {
        "event_id": [f"c{first + i}" for i in range(n)],
        "event_type": rng.choice(["view", "cart"], n, p=[0.9, 0.1]).tolist(),
        "event_time": pa.array(times, pa.timestamp("us")),
        "user_id": [f"u{u}" for u in rng.integers(0, 20_000, n)],
        "product_id": [f"p{p}" for p in products],
        "category": [f"category {p % 12}" for p in products],
        "url": [f"/product/{p}" for p in products],
    }
    return _table("clicks", columns, n)


def orders(rng: np.random.Generator, first: int, times: np.ndarray) -> pa.Table:
    """So many orders, each with its creation alone."""
    n = len(times)
    columns = {
        "event_id": [f"o{first + i}" for i in range(n)],
        "event_type": ["OrderCreated"] * n,
        "event_time": pa.array(times, pa.timestamp("us")),
        "order_id": [f"order{first + i}" for i in range(n)],
        "customer_id": [f"u{u}" for u in rng.integers(0, 20_000, n)],
        "items": [[]] * n,
        "total_cents": rng.integers(100, 50_000, n),
        "currency": rng.choice(["EUR", "USD", "GBP"], n).tolist(),
    }
    return _table("orders", columns, n)


def _table(topic: str, columns: dict[str, Any], n: int) -> pa.Table:
    schema = contract(topic).arrow
    made = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(n, f.type) for f in schema]
    return pa.Table.from_arrays(made, schema=schema)


class Held:
    """A lock that knows how long it was held: a commit of a live stream would have waited so long."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        """Takes the time."""
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """Keeps the longest."""
        self.longest = max(self.longest, time.perf_counter() - self._began)


class Month:
    """The engine over made events, a commit at a time."""

    def __init__(self, home: Path, seed: int):
        self.settings = load().model_copy(update={"home": home})
        s = self.settings
        self.con = duckdb.connect(str(s.warehouse))
        migrate(self.con)
        self.plans = load_views()
        prepare(self.con, self.plans, {t: TopicLog(None, {0: (0, 0)}) for t in EVENTS}, s, START)
        rules = Rules(s.lateness * 10**6, s.horizon * 10**6, s.max_ahead * 10**6)
        self.judges = {t: Judge(t, 0, rules) for t in EVENTS}
        self.tallier = Tallier(self.plans)
        self.committer = Committer(self.con, self.plans, rules.lateness_us, rules.horizon_us)
        self.position = dict.fromkeys(EVENTS, 0)
        self.rng = np.random.default_rng(seed)

    def deltas(self, begin: datetime) -> Iterator[Delta]:
        """What an hour from `begin` brings, five minutes of disorder in it."""
        from_us = int((begin - datetime(1970, 1, 1)) / timedelta(microseconds=1))
        for topic, n in EVENTS.items():
            times = np.sort(self.rng.integers(0, int(STEP.total_seconds() * 1e6), n)) + from_us
            times -= self.rng.integers(0, 300_000_000, n)
            first = self.position[topic]
            events = (clicks if topic == "clicks" else orders)(self.rng, first, times)
            self.position[topic] += n
            raw = RawBatch(
                topic, 0, first, first + n, np.arange(first, first + n), np.full(n, -1), [b"k"] * n, [b""] * n
            )
            b = self.judges[topic].judge(DecodedBatch(raw, events, np.arange(n), DEAD_SCHEMA.empty_table(), (1,)))
            partials = self.tallier.tally(topic, b.applied)
            yield Delta(
                topic, 0, b.first, b.next, b.consumed, b.applied.num_rows, b.duplicate, b.late, b.dead, 0, b.memory,
                b.memory_max_time, b.max_event_time, b.schema_ids, partials, frozenset(), b.min_event_time,
            )  # fmt: skip

    def day(self, day: int, compacting: bool) -> dict[str, Any]:
        """One day; its figures."""
        seconds, cpu, steps, now, held = [], [], [], START, Held()
        for number in range(int(timedelta(days=1) / STEP)):
            now = START + timedelta(days=day) + number * STEP
            deltas = list(self.deltas(now))
            began, used = time.perf_counter(), time.process_time()
            self.committer.commit(deltas, now)
            cpu.append(time.process_time() - used)
            seconds.append(time.perf_counter() - began)
            if compacting and number % COMPACT_EVERY == COMPACT_EVERY - 1:
                began = time.perf_counter()
                compact(self.con, self.settings, self.plans, held, now)
                steps.append(time.perf_counter() - began)
        rows = {"hot": 0, "cold": 0, "others": 0}
        for (table,) in self.con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'state' AND table_name <> 'judge'"
        ).fetchall():
            # A total without a window keeps its rows hot, and grows with its keys, not with time.
            kind = (
                "others" if table.startswith("order_status") or "__m" in table or table.endswith("__right") else "hot"
            )
            kind = "cold" if table.endswith("__cold") else kind
            found = self.con.execute(f'SELECT count(*) FROM state."{table}"').fetchone()
            rows[kind] += found[0] if found else 0
        commits = self.con.execute("SELECT count(*) FROM ledger.commits").fetchone()
        if not compacting:
            self.con.execute("CHECKPOINT")
        return {
            "day": day + 1,
            **rows,
            "commit_rows": commits[0] if commits else 0,
            "file_bytes": self.settings.warehouse.stat().st_size,
            "commit_p50_ms": float(np.percentile(seconds, 50) * 1e3),
            "commit_p99_ms": float(np.percentile(seconds, 99) * 1e3),
            "commit_cpu_p50_ms": float(np.percentile(cpu, 50) * 1e3),
            "commit_cpu_p99_ms": float(np.percentile(cpu, 99) * 1e3),
            "compact_ms": float(np.mean(steps) * 1e3) if steps else 0.0,
            "longest_step_ms": held.longest * 1e3,
        }


def main() -> None:
    """Runs it, tells each day on stdout, writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-compact", action="store_true", help="the negative control: nothing is written to docs/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        month = Month(Path(folder), args.seed)
        days = []
        for day in range(args.days):
            days.append(month.day(day, not args.no_compact))
            print(json.dumps(days[-1]), flush=True)
        month.con.close()
    if not args.no_compact:
        write(days, EVENTS, PROJECT / "docs")


if __name__ == "__main__":
    main()
