"""Source to visible: how long after its Kafka timestamp a reader over Quack sees an event in the views.

Visible is the moment at which a client's query, sent while the stream writes, came back with an offset beyond the
event's. The ledger's offsets and the views are one committed state, so this is the time of the views as well.
The first WARM seconds are left out.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import httpx
import numpy as np
from confluent_kafka import Consumer, TopicPartition

from tallystream.settings import Settings
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.warehouse.live import live_address
from tallystream.warehouse.read import open_reader

EVERY = 0.05  # seconds between two looks of the reader
SAMPLE = 997  # every so many events of a partition is followed
WARM = 2.0  # seconds: what the generator sends first lies in its own queue for a second, while it makes itself known to the broker
POSITIONS = "SELECT partition, next_offset FROM ledger.offsets WHERE topic = 'clicks'"


class BeyondError(Exception):
    """The rate is beyond what the stream can take beside its generator and its reader: the lag grows."""


def measure(settings: Settings, rate: int, seconds: int, views: list[str]) -> dict[str, Any]:
    """Runs stream and paced generator for so long; milliseconds from source to visible, and the commits' durations.

    Raises:
        BeyondError: the stream fell behind, so that there is no such time.
    """
    tally = [sys.executable, "-m", "tallystream.cli"]
    stream = subprocess.Popen([*tally, "run", *views])
    shop = None
    try:
        while live_address(settings) is None:
            if stream.poll() is not None:
                raise SystemExit(f"the stream ended with {stream.returncode}")
            time.sleep(0.05)
        before = {p: high for p, (_, high) in topic_logs(settings, ["clicks"])["clicks"][1].items()}
        events = ["--events", str(rate * seconds), "--rate", str(rate)]
        shop = subprocess.Popen([*tally, "generate", *events], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        looks: list[tuple[float, dict[int, int]]] = []
        with open_reader(settings) as reader:
            while shop.poll() is None:
                found = dict(reader.rows(POSITIONS)[2])
                looks.append((time.time(), found))
                time.sleep(EVERY)
            for _ in range(100):
                looks.append((time.time(), dict(reader.rows(POSITIONS)[2])))
                time.sleep(EVERY)
        address = live_address(settings)
        health = httpx.get(f"{address['admin']}/health").json() if address else {}
    finally:
        if shop is not None:
            shop.kill()
        stream.terminate()
        stream.wait(60)
    stamps = _stamps(settings, before)
    warm = min(found[0, 1] for found in stamps.values() if len(found)) + WARM * 1000
    stamps = {p: found[found[:, 1] >= warm] for p, found in stamps.items()}
    waits = np.concatenate([_waits(looks, partition, found) for partition, found in stamps.items()])
    p50, p99, most = np.percentile(waits, [50, 99, 100])
    return {
        "rate": rate,
        "samples": len(waits),
        "visible_ms": {"p50": p50, "p99": p99, "max": most},
        "commit_seconds": health.get("commit_seconds"),
        "looks": len(looks),
    }


def _stamps(settings: Settings, before: dict[int, int]) -> dict[int, np.ndarray]:
    """By partition (offset, timestamp ms) of the sampled events since `before`."""
    ranges = topic_logs(settings, ["clicks"])["clicks"][1]
    found: dict[int, np.ndarray] = {}
    for partition, (_, high) in ranges.items():
        consumer = Consumer({**kafka_config(settings), "group.id": "latency", "enable.auto.commit": "false"})
        consumer.assign([TopicPartition("clicks", partition, before[partition])])
        rows, at = [], before[partition]
        while at < high:
            for m in consumer.consume(5000, 0.2):
                if m.error() is None:
                    at = m.offset() + 1
                    if m.offset() % SAMPLE == 0:
                        rows.append((m.offset(), m.timestamp()[1]))
        consumer.close()
        found[partition] = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return found


def _waits(looks: list[tuple[float, dict[int, int]]], partition: int, stamps: np.ndarray) -> np.ndarray:
    times = np.array([t for t, _ in looks])
    seen = np.array([positions.get(partition, 0) for _, positions in looks])
    first = np.searchsorted(seen, stamps[:, 0], side="right")
    if (first >= len(times)).any():
        raise BeyondError("events were not visible two seconds after the last was sent")
    return times[first] * 1000 - stamps[:, 1]
