"""The drill beside promotions: what the log's tail cannot hold is not compared, and never called different."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tallystream.replay import api
from tallystream.replay.request import ReplayRequest
from tallystream.store.objects import open_store
from tallystream.views.loader import load_views
from tallystream.warehouse.drill import drill
from tallystream.warehouse.operate import take_snapshot
from tests.replay.shop import buggy, revenue

pytestmark = pytest.mark.embedded


def drilled(home):
    return drill(home, open_store(home), load_views(), datetime.now(UTC).replace(tzinfo=None))


def test_a_view_promoted_or_undone_after_the_snapshot_is_not_compared(home, tmp_path):
    take_snapshot(home, open_store(home))
    before = revenue(home)
    promoted = api.replay(home, ReplayRequest("promote", views_dir=buggy(tmp_path / "views")))
    assert revenue(home) != before
    done = drilled(home)
    assert done.good and set(done.compared) == set(load_views()) - {"revenue_per_minute"}
    told = f"promoted or undone after the snapshot (promotion {promoted.promotion})"
    assert done.not_compared["revenue_per_minute"].startswith(told)
    # A snapshot of the promoted rows equals them.
    take_snapshot(home, open_store(home))
    assert drilled(home).not_compared == {}
    api.undo(home, promoted.promotion)
    done = drilled(home)
    assert done.good and done.not_compared["revenue_per_minute"].startswith(told)
