"""How long commits take beside a backfill of 24 hours, a snapshot and a compaction, and without them.

`python -m benchmarks.upkeep [--events 2000000]`: the same backlog twice, each time with a day of history before it, on the
embedded broker. A commit's seconds are the stream's own, with its wait for whoever else writes. No figure is a pass.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import timedelta

from benchmarks.throughput import home_of
from tallystream.settings import Settings
from tests.live.upkeep import HOURS, at_once, caught_up, commits, first_hour, history, publish, stream


def one_round(settings: Settings, events: int, day_events: int, upkeep: bool) -> dict[str, object]:
    """The backlog from the first commit to the last; with `upkeep` the three begin with it."""
    day = first_hour()
    history(settings, day_events, 2000, day)
    publish(settings, events, 3, day + timedelta(hours=HOURS), 1.9)
    told: dict[str, object] = {}
    with stream(settings):
        began = time.monotonic()
        if upkeep:
            done, took = at_once(settings, day)
            told = {name: round(seconds, 1) for name, seconds in took.items()}
            told |= {
                "late_events_brought_in": done.late["applied"] if done.late else 0,
                "not_promoted": done.not_promoted,
            }
            told["backlog_left_when_they_were_done"] = not caught_up(settings)
        while not caught_up(settings):
            time.sleep(0.2)
        seconds = time.monotonic() - began
        return {"events_per_second": round(events / seconds), "commit_seconds": commits(settings), **told}


def main() -> None:
    """Prints a line with and one without."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000, help="of the backlog")
    parser.add_argument("--day-events", type=int, default=200_000, help="of the 24 hours before it")
    parser.add_argument("--partitions", type=int, default=4)
    chosen = parser.parse_args()
    os.environ["TALLY_PARTITIONS"] = str(chosen.partitions)
    for upkeep in (False, True):
        with home_of("embedded") as settings:
            told = one_round(settings, chosen.events, chosen.day_events, upkeep)
            print(f"{'with' if upkeep else 'without'}: {json.dumps(told)}", flush=True)


if __name__ == "__main__":
    main()
