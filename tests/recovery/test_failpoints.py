"""Killed at every step from the source to the mirror, the file holds exactly the books of what it says it has read."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tallystream.settings import PROJECT
from tallystream.warehouse.read import live_address
from tests.servers.broker import until

from .killed import Dying, Hunted, children, compare_all, patient, stream, tally
from .shop import Publishing, Shop, publish

PLACES = re.compile(r'hit\("((?:source|decode|judge|tally|sink|commit|mirror)\.[a-z_]+)"\)')
FAILPOINTS = sorted(
    {
        name
        for folder in ("dataflows", "tallystream/warehouse")
        for file in (PROJECT / folder).glob("*.py")
        for name in PLACES.findall(file.read_text())
    }
)


def test_there_are_twelve_places_at_least():
    assert len(FAILPOINTS) >= 12
    assert {f.partition(".")[0] for f in FAILPOINTS} == {
        "source",
        "decode",
        "judge",
        "tally",
        "sink",
        "commit",
        "mirror",
    }


@pytest.mark.parametrize("passes", [1, 3])
def test_killed_at_every_place(fresh_topics, monkeypatch, passes):
    settings, shop = fresh_topics(2), Shop(passes)
    publish(settings, shop, 300)
    # Every place at its first pass; at a later one every second place, and every place in `make soak`.
    places = FAILPOINTS if passes == 1 or "SOAK_MINUTES" in os.environ else FAILPOINTS[::2]
    wanted = [f"{name}:{passes}" for name in places]
    with patient(monkeypatch), Publishing(settings, shop):
        dying = Dying(settings, wanted)
        assert dying.run() == 0, dying.told.getvalue()
    assert dying.deaths == wanted, "a place was never passed"
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)


def test_the_supervisor_killed_while_it_prepares(fresh_topics):
    settings, shop = fresh_topics(2), Shop(5)
    for _ in range(2):
        publish(settings, shop, 200)
        for place in ("prepare.before_commit", "prepare.after_commit"):
            assert tally("run", "--until-end", TALLY_FAILPOINT=place).returncode == -signal.SIGKILL
        assert tally("run", "--until-end").returncode == 0
    compare_all(settings)


@pytest.mark.parametrize("workers", [1, 2])
def test_asked_to_stop_before_the_processes_can_listen(fresh_topics, monkeypatch, workers):
    settings = fresh_topics(2)
    with patient(monkeypatch):
        asked_at_once = Dying(settings, [], workers)
        assert asked_at_once.run() == 0, asked_at_once.told.getvalue()


def test_a_killed_supervisor_takes_its_processes_along(fresh_topics):
    settings, shop = fresh_topics(2), Shop(6)
    publish(settings, shop, 300)
    with Publishing(settings, shop):
        for wait in (0.2, 1.0):
            with stream("--workers", "2") as running:
                # Not the one before it, which may take a moment to die.
                until(
                    lambda: (live_address(settings) or {}).get("pid") in children("dataflows", running.pid),
                    "the stream serves nothing",
                )
                time.sleep(wait)
                assert len(children("dataflows", running.pid)) == 2
                running.kill()
                running.wait(10)
    again = tally("run", "--until-end")
    assert again.returncode == 0, again.stderr
    compare_all(settings)


def test_killed_at_random(fresh_topics, monkeypatch, hunt_seconds):
    settings, seed = fresh_topics(2), time.time_ns() % 10**6
    shop = Shop(seed)
    publish(settings, shop, 300)
    pause = 0.15 if hunt_seconds < 60 else 2.0
    with patient(monkeypatch), Publishing(settings, shop, pause=pause):
        hunted = Hunted(settings, hunt_seconds, seed, workers=2)
        assert hunted.run() == 0, (seed, hunted.told.getvalue())
    assert len(hunted.deaths) >= 2
    assert tally("run", "--until-end", "--workers", "2").returncode == 0
    print(f"seed {seed}: {len(hunted.deaths)} deaths in {hunt_seconds:.0f} s")
    compare_all(settings)


def test_offsets_committed_apart_from_the_rows_are_caught(fresh_topics, monkeypatch):
    settings = fresh_topics(2)
    publish(settings, Shop(7), 300)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "tests/recovery/apart"))
    monkeypatch.setenv("TESTS_OFFSETS_APART", "yes")
    with patient(monkeypatch):
        dying = Dying(settings, ["commit.inside_merge"])
        with pytest.raises(AssertionError):
            dying.run()
    assert dying.deaths == ["commit.inside_merge"]
