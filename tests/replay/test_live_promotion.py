"""Promotion and undo through the writer of a running stream, which is killed at their failpoints: whole, or nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tallystream.errors import WarehouseError
from tallystream.replay import api
from tallystream.replay.request import ReplayRequest
from tallystream.warehouse.live import live_address
from tests.replay.shop import buggy, revenue, rows, tally

pytestmark = pytest.mark.embedded


@contextmanager
def stream(home, failpoint):
    """A `tally run` whose writer dies at the failpoint, once; the supervisor starts it again without."""
    environment = {**os.environ, "TALLY_FAILPOINT": failpoint}
    process = subprocess.Popen([sys.executable, "-m", "tallystream.cli", "run"], env=environment)
    try:
        serving(home)
        yield
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def serving(home, *, but=None):
    """Waits for a writer that answers, another than the one whose pid is `but`; its pid."""
    deadline = time.monotonic() + 60
    while (found := live_address(home)) is None or found["pid"] == but:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found["pid"]


@pytest.mark.parametrize(
    ("place", "promoted", "undone"),
    [
        ("promote.before_commit", False, None),
        ("promote.after_commit", True, None),
        ("undo.before_commit", True, False),
    ],
)
def test_a_writer_that_dies_leaves_the_whole_of_it_or_nothing(home, tmp_path, place, promoted, undone):
    before = revenue(home)
    after = [(*row[:4], row[4] + row[3], row[5]) for row in before]
    with stream(home, place):
        result = api.replay(home, ReplayRequest("diff", views_dir=buggy(tmp_path / "views")))
        assert result.cells == len(before)
        pid = serving(home)
        if place.startswith("promote"):
            with pytest.raises(WarehouseError, match="did not finish the promote"):
                api.promote(home, result)
            pid = serving(home, but=pid)
            assert revenue(home) == (after if promoted else before)
        if not (promoted and place.startswith("promote")):
            api.promote(home, result)
        assert revenue(home) == after
        (number,) = rows(home, "SELECT max(id) FROM ledger.promotions")[0]
        if undone is not None:
            with pytest.raises(WarehouseError, match="did not finish the undo"):
                api.undo(home, number)
            serving(home, but=pid)
            assert revenue(home) == (before if undone else after)
        assert api.undo(home, number)["views"] == ["revenue_per_minute"]
        assert revenue(home) == before
        assert rows(home, "SELECT count(*), count(undone_at) FROM ledger.promotions") == [(1, 1)]
    assert rows(home, "SELECT count(*) FROM duckdb_tables() WHERE table_name LIKE 'undo_%'") == [(0,)]


def test_killed_at_rest_an_undo_is_whole_or_nothing(home, tmp_path):
    before = revenue(home)
    done = api.replay(home, ReplayRequest("promote", views_dir=buggy(tmp_path / "views")))
    after = revenue(home)
    assert after != before
    tally("replay", "--undo", str(done.promotion), code=-9, TALLY_FAILPOINT="undo.before_commit")
    assert revenue(home) == after
    tally("replay", "--undo", str(done.promotion))
    assert revenue(home) == before
