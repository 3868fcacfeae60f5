"""Killed at every step from the source to the mirror, the file holds exactly the books of what it says it has read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time

import pytest

from tallystream.settings import PROJECT
from tallystream.views.loader import VIEWS
from tallystream.warehouse.live import live_address
from tests.servers.broker import PATIENCE, until

from .killed import Dying, Rebuilding, children, compare_all, patient, stream, tally
from .shop import Publishing, Shop, publish

PLACES = re.compile(r'hit\("((?:source|decode|judge|tally|sink|commit|mirror)\.[a-z_]+)"\)')
FAILPOINTS = sorted(
    {
        name
        for folder in ("dataflows", "tallystream/topics", "tallystream/warehouse")
        for file in (PROJECT / folder).glob("*.py")
        for name in PLACES.findall(file.read_text())
    }
)
# A test a part: one that hangs is told by its part, and the parts run on all cores. A later pass, and the sweep with
# views being built, take every second place: all of them in `make soak`.
PARTS = 4
SOAK = "SOAK_MINUTES" in os.environ
FIRST = [(1, FAILPOINTS[i::PARTS]) for i in range(PARTS)]
LATER = FAILPOINTS if SOAK else FAILPOINTS[::2]
SWEEP = FIRST + [(3, LATER[i::2]) for i in range(2)]
BUILDING = FAILPOINTS if SOAK else FAILPOINTS[1::2]


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
    assert sorted(name for _, part in FIRST for name in part) == FAILPOINTS


@pytest.mark.parametrize(("passes", "places"), SWEEP, ids=[f"pass {n} from {p[0]}" for n, p in SWEEP])
def test_killed_at_every_place(fresh_topics, monkeypatch, passes, places):
    settings, shop = fresh_topics(2), Shop(passes)
    publish(settings, shop, 300)
    wanted = [f"{name}:{passes}" for name in places]
    with patient(monkeypatch), Publishing(settings, shop):
        dying = Dying(settings, wanted)
        assert dying.run() == 0, dying.told.getvalue()
    assert dying.deaths == wanted, "a place was never passed"
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)


@pytest.mark.parametrize("places", [BUILDING[::2], BUILDING[1::2]], ids=lambda p: p[0])
def test_two_processes_killed_while_views_are_built_from_the_log(fresh_topics, monkeypatch, tmp_path, places):
    settings, shop, views = fresh_topics(2), Shop(8), tmp_path / "views"
    shutil.copytree(VIEWS, views)
    publish(settings, shop, 300)
    assert tally("run", "--until-end").returncode == 0
    with patient(monkeypatch), Publishing(settings, shop):
        dying = Rebuilding(settings, places, views, workers=2)
        assert dying.run() == 0, dying.told.getvalue()
    assert dying.deaths == places, "a place was never passed"
    assert tally("run", "--until-end", "--views", str(views)).returncode == 0
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
                running.wait(PATIENCE)
    again = tally("run", "--until-end")
    assert again.returncode == 0, again.stderr
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
