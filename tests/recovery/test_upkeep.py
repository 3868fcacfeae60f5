"""A day's backfill, a snapshot and a compaction while the stream is at full speed: every view is still that of the books."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tallystream.replay.backfill import backfill
from tallystream.settings import PROJECT, Settings
from tallystream.store.objects import open_store
from tallystream.warehouse.manifest import catalog
from tallystream.warehouse.operate import archive_committed, compact_now, take_snapshot
from tallystream.warehouse.read import live_address, open_reader
from tests.servers.broker import until

from .killed import compare_all, stream, tally

# Of the control plane's functions, not of the broker: once is enough.
pytestmark = pytest.mark.embedded
BEFORE, MEANWHILE = 20_000, 150_000


def consumed(settings: Settings) -> int:
    with open_reader(settings) as reader:
        return int(reader.rows("SELECT coalesce(sum(consumed), 0)::BIGINT FROM ledger.offsets")[2][0][0])


def test_upkeep_at_full_speed_changes_no_cell(fresh_topics, capsys):
    settings = fresh_topics(4)
    tally("generate", "--events", str(BEFORE), "--seed", "1", "--disorder", "20", "--duplicates", "0.01")
    store = open_store(settings)
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        until(lambda: consumed(settings) >= BEFORE, "the stream does not read")
        archive_committed(settings, store)
        more = ["generate", "--events", str(MEANWHILE), "--seed", "2", "--disorder", "20", "--duplicates", "0.01"]
        with subprocess.Popen(
            [sys.executable, "-m", "tallystream.cli", *more], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as flood:  # fmt: skip
            until(lambda: consumed(settings) > BEFORE * 1.2, "the flood does not arrive")
            hour = datetime.now(UTC).replace(tzinfo=None, minute=0, second=0, microsecond=0)
            done = backfill(settings, hour - timedelta(hours=23), hour + timedelta(hours=1))
            at_backfill = consumed(settings)
            name = take_snapshot(settings, store)
            moved = compact_now(settings)["moved"]
            assert flood.wait(240) == 0
        address = live_address(settings)
        assert address is not None
        pace = httpx.get(f"{address['admin']}/health", timeout=10).json()["commit_seconds"]
        running.terminate()
        assert running.wait(60) == 0
    assert tally("run", "--until-end").returncode == 0
    # What was read again is what was tallied: nothing is promoted, and nothing that came meanwhile is lost.
    assert done.messages >= BEFORE and done.cells == 0 and done.promotion is None
    assert next(f for f in catalog(store, None) if f.name == name).good
    assert moved
    compare_all(settings)
    with capsys.disabled():
        print(f"\nupkeep beside {at_backfill:,} and more events: commits {pace}")
