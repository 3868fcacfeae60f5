"""A day of history, a stream at full speed, and what must be done beside it: a backfill of the day, a snapshot, a compaction."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tallystream.replay.api import ReplayResult
from tallystream.replay.backfill import backfill
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics.generate import generate
from tallystream.topics.shop import Shop
from tallystream.warehouse.live import live_address
from tallystream.warehouse.operate import archive_committed, compact_now, take_snapshot
from tallystream.warehouse.status import collect

HOURS = 24


def first_hour() -> datetime:
    """Where the day begins: it ends two hours ago, at the latest. UTC, naive."""
    now = datetime.now(UTC).replace(tzinfo=None)
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS + 2)


def publish(settings: Settings, events: int, seed: int, first: datetime, hours: float, **more: Any) -> None:
    """A shop whose events stretch over so many hours."""
    start = int(first.replace(tzinfo=UTC).timestamp() * 1e6)
    shop = Shop(events, seed, start, rate=events / (hours * 3600), duplicates=0.02, disorder=20)
    generate(settings, shop, **more)


@contextmanager
def stream(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A `tally run` that answers, ended in good order."""
    process = subprocess.Popen([sys.executable, "-m", "tallystream.cli", "run"], stderr=subprocess.DEVNULL)
    try:
        while live_address(settings) is None:
            assert process.poll() is None, "the stream did not come up"
            time.sleep(0.02)
        yield process
        process.terminate()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def caught_up(settings: Settings) -> bool:
    return not any(p["lag"] for p in collect(settings)["partitions"])


def commits(settings: Settings) -> dict[str, float]:
    """How long the stream's recent commits took, the wait for what else writes included: p50, p99, max, seconds."""
    found = live_address(settings)
    assert found is not None
    told: dict[str, float] = httpx.get(f"{found['admin']}/health", timeout=30.0).json()["commit_seconds"]
    return told


def settle(settings: Settings, seconds: float) -> None:
    """Waits until the stream has all of the log."""
    deadline = time.monotonic() + seconds
    while not caught_up(settings):
        assert time.monotonic() < deadline, collect(settings)
        time.sleep(0.2)


def at_once(settings: Settings, day: datetime) -> tuple[ReplayResult, dict[str, float]]:
    """The three, each in a thread; what the backfill did, and the seconds that each took."""
    store = open_store(settings)
    took: dict[str, float] = {}
    done: dict[str, Any] = {}
    failed: list[BaseException] = []

    def timed(name: str, work: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            done[name] = work()
        except BaseException as error:
            failed.append(error)
        took[name] = time.monotonic() - began

    works: dict[str, Callable[[], Any]] = {
        "backfill": lambda: backfill(settings, day, day + timedelta(hours=HOURS)),
        "snapshot": lambda: take_snapshot(settings, store),
        "compact": lambda: compact_now(settings),
    }
    threads = [threading.Thread(target=timed, args=item) for item in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return done["backfill"], took


def history(settings: Settings, events: int, late: int, day: datetime) -> None:
    """The day, tallied and archived; then so many events of it that come too late."""
    publish(settings, events, 1, day, HOURS)
    with stream(settings):
        settle(settings, 300)
        archive_committed(settings, open_store(settings))
        if late:
            publish(settings, late, 2, day, HOURS)
            settle(settings, 300)
