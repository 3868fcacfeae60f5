"""Whatever the backlog, the memory of a stream is bounded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tallystream.settings import Settings
from tallystream.topics.generate import fill
from tallystream.warehouse.control import open_prepared
from tests.servers.broker import until

from .killed import children, stream

SMALL, LARGE = 1_200_000, 4_800_000
# Bytes. The imports, Arrow and DuckDB without work: 0.4 GB. At most half a million messages wait for a commit, as many are in the
# one under way, and as many again in the open epoch (`sink.WAITING`, one batch of 65 536 for each of eight
# partitions); their partials for the shipped views take 250 bytes each: 1.1 GB. Merging them, DuckDB takes as much again.
BOUND = 2_600 << 20


# The embedded broker answers with a whole partition, whatever it is asked for, and the client holds it: 440 bytes a message.
@pytest.mark.kafka
@pytest.mark.skipif("SOAK_MINUTES" not in os.environ, reason="6 M events take minutes: make soak")
def test_four_times_the_backlog_takes_no_more_memory(fresh_topics):
    settings = fresh_topics(4)
    peaks = [peak(settings, n) for n in (SMALL, LARGE)]
    print(f"peaks of {SMALL:,} and {LARGE:,} events: {[f'{p >> 20} MB' for p in peaks]}")
    assert max(peaks) < BOUND
    with open_prepared(settings) as con:
        assert con.execute("SELECT sum(consumed)::BIGINT FROM ledger.offsets").fetchone() == (SMALL + LARGE,)


def peak(settings: Settings, events: int) -> int:
    """The largest resident set of the process that writes, while it takes a backlog of so many new events."""
    fill(settings, "clicks", events * 5 // 6, 4, seed=events)
    fill(settings, "orders", events // 6, 4, seed=events)
    found = 0
    with stream("--until-end") as running:
        until(lambda: bool(children("dataflows", running.pid)), "no process of the flow")
        while running.poll() is None:
            for pid in children("dataflows", running.pid):
                found = max(found, resident(pid))
            time.sleep(0.05)
        assert running.returncode == 0
    return found


def resident(pid: int) -> int:
    """What the process holds itself, in bytes, without the pages of files that it has mapped."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["RssAnon"].split()[0]) << 10 if "RssAnon" in lines else 0
