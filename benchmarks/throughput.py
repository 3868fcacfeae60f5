"""`make bench`: events/s of `tally run --until-end`, beside the ceiling of the same rounds.

Both run in turn, in fresh processes, on the same log of clicks; no figure is a pass or a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.latency import BeyondError, measure
from tallystream.settings import PROJECT, Settings
from tallystream.topics import broker
from tallystream.topics.client import ensure_topics
from tallystream.topics.generate import fill
from tallystream.warehouse.read import open_reader
from tests.servers import broker as servers
from tests.servers import jars

COMMITS = """
    SELECT count(DISTINCT id) AS commits, quantile_cont(seconds, 0.5) AS p50, quantile_cont(seconds, 0.99) AS p99,
           sum(consumed)::BIGINT AS events,
           (sum(consumed) FILTER (WHERE id > 1))::BIGINT AS later,
           epoch(max(committed_at) - min(committed_at)) AS span
    FROM (SELECT id, max(seconds) AS seconds, sum(consumed) AS consumed, min(committed_at) AS committed_at
          FROM ledger.commits GROUP BY id)
"""


@contextmanager
def home_of(kind: str) -> Iterator[Settings]:
    """A fresh TALLY_HOME with its broker; both are removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tally-bench-"))
    os.environ["TALLY_HOME"] = str(folder)
    os.environ.pop("TALLY_BOOTSTRAP_SERVERS", None)
    kafka = servers.Kafka(folder / "kafka") if kind == "kafka" else None
    try:
        if kafka is not None:
            os.environ["TALLY_BOOTSTRAP_SERVERS"] = kafka.server.bootstrap
        yield Settings()
    finally:
        if kafka is not None:
            kafka.stop()
        else:
            broker.stop(Settings())
        shutil.rmtree(folder, ignore_errors=True)


def run(*command: str) -> dict[str, Any]:
    """One process to its end: wall and CPU seconds, peak memory (MB of the largest process), its output."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu, "rss_mb": after.ru_maxrss / 1024, "out": done.stdout}


def one_round(settings: Settings, views: list[str]) -> dict[str, float]:
    """The ceiling, then the flow, on an empty warehouse."""
    drained = json.loads(run("-m", "benchmarks.ceiling", "clicks")["out"])
    for path in settings.root.glob("tally.duckdb*"):
        path.unlink()
    flow = run("-m", "tallystream.cli", "run", "--until-end", *views)
    with open_reader(settings) as reader:
        names, _, rows = reader.rows(COMMITS)
    ledger = dict(zip(names, rows[0], strict=True))
    if ledger["events"] != drained["events"]:
        raise SystemExit(f"the flow consumed {ledger['events']} of {drained['events']} events")
    return {
        "ceiling": drained["events"] / drained["seconds"],
        "flow": ledger["events"] / flow["wall"],
        "steady": ledger["later"] / ledger["span"] if ledger["span"] else 0.0,
        "cpu_per_million": flow["cpu"] / ledger["events"] * 1e6,
        "commit_p50_ms": ledger["p50"] * 1000,
        "commit_p99_ms": ledger["p99"] * 1000,
        "rss_mb": flow["rss_mb"],
    }


def latency(kind: str, rate: int, seconds: int, views: list[str]) -> str:
    """What `measure` finds on a home and a log of its own, or that the stream fell behind."""
    try:
        with home_of(kind) as settings:
            ensure_topics(settings)
            return json.dumps(measure(settings, rate, seconds, views), default=float)
    except BeyondError as error:
        return f"beyond it, {error}"


def main() -> None:
    """Prints a line a round, then medians and spreads, then the latency at half of that, and at less."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-seconds", type=int, default=20)
    parser.add_argument("--broker", choices=("embedded", "kafka", "both"), default="both")
    parser.add_argument("--views", help="folder of view files; the shipped ones when left out")
    chosen = parser.parse_args()
    views = ["--views", str(Path(chosen.views).resolve())] if chosen.views else []
    kinds = ["embedded", "kafka"] if chosen.broker == "both" else [chosen.broker]
    missing = jars.missing()
    if "kafka" in kinds and missing:
        print(f"Apache Kafka is left out: {missing}", file=sys.stderr)
        kinds.remove("kafka")
    for kind in kinds:
        with home_of(kind) as settings:
            filled = fill(settings, "clicks", chosen.events, chosen.partitions)
            print(f"{kind}: {chosen.events:,} clicks published in {filled.seconds:.1f} s", flush=True)
            rounds = []
            for number in range(1, chosen.rounds + 1):
                rounds.append(one_round(settings, views))
                told = ", ".join(f"{name} {value:,.1f}" for name, value in rounds[-1].items())
                print(f"{kind} round {number}: {told}", flush=True)
            for name in rounds[0]:
                values = [r[name] for r in rounds]
                print(
                    f"{kind} {name}: median {statistics.median(values):,.1f}, {min(values):,.1f} to {max(values):,.1f}"
                )
        if chosen.latency_seconds:
            half = int(statistics.median(r["steady"] for r in rounds) / 2)
            # The generator and the reader need the same cores: at half load they may leave the stream too little.
            for rate in (half, half // 2, half // 4, half // 8):
                told = latency(kind, rate, chosen.latency_seconds, views)
                print(f"{kind} at {rate:,} events/s: {told}", flush=True)


if __name__ == "__main__":
    main()
