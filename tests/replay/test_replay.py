"""Replays against a real broker and a warehouse at rest: what is unchanged differs in nothing, what differs can be swapped."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import pytest

from tallystream.errors import UsageError, WarehouseError
from tallystream.replay import api
from tallystream.replay.request import ReplayRequest
from tallystream.store.objects import open_store
from tallystream.warehouse.operate import archive_committed
from tests.oracle.books import keep
from tests.replay.shop import RULES, buggy, revenue, rows, tally


def test_there_are_late_and_dead_rows_or_the_tests_below_would_prove_little(tallied):
    assert rows(tallied, "SELECT sum(late) > 20, sum(dead) = 9, sum(duplicate) > 20 FROM ledger.offsets") == [
        (True, True, True)
    ]


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"from_offset": 200, "to_offset": 600},
        {"topics": ("clicks",), "from_offset": 1000},
        {"topics": ("orders",), "to_offset": 300},
        {"rate": 4000},
    ],
)
def test_a_replay_of_unchanged_views_differs_in_nothing(tallied, chosen):
    result = api.replay(tallied, ReplayRequest("diff", **chosen))
    assert result.cells == 0
    assert [v for v in result.views if v["added"] or v["missing"] or v["changed"]] == []
    # Not because nothing was compared.
    assert sum(v["compared"] for v in result.views) > 0


def test_a_range_of_event_times_compares_the_windows_within_it(tallied):
    first, last = rows(tallied, "SELECT min(window_start), max(window_end) FROM revenue_per_minute")[0]
    result = api.replay(
        tallied, ReplayRequest("diff", from_time=first + timedelta(minutes=1), to_time=last - timedelta(minutes=1))
    )
    whole = rows(tallied, "SELECT count(*) FROM revenue_per_minute")[0][0]
    (view,) = [v for v in result.views if v["view"] == "revenue_per_minute"]
    assert 0 < view["compared"] < whole
    assert result.cells == 0


def test_a_sandbox_holds_the_range_alone_judged_as_live(tallied):
    request = ReplayRequest("sandbox", topics=("clicks",), partitions=(1,), from_offset=500, to_offset=1500)
    result = api.replay(tallied, request)
    books = keep(tallied, **RULES)["clicks"][1]
    between = {name: sum(500 <= o < 1500 for o in getattr(books, name)) for name in ("duplicate", "late", "dead")}
    applied = 1000 - sum(between.values())
    assert result.accounts == {"clicks/1": {"consumed": 1000, "applied": applied, **between}}
    with duckdb.connect(result.sandbox, read_only=True) as con:
        assert con.execute("SELECT sum(clicks)::BIGINT FROM clicks_per_minute").fetchone() == (applied,)
        assert con.execute('SELECT min("offset") >= 500, max("offset") < 1500 FROM late_events').fetchone() == (
            True,
            True,
        )
    assert result.ranges == [{"topic": "clicks", "partition": 1, "from_offset": 500, "to_offset": 1500}]


def test_a_planted_bug_is_shown_promoted_and_undone(home, tmp_path):
    before = revenue(home)
    views = buggy(tmp_path / "views")
    result = api.replay(home, ReplayRequest("diff", views_dir=views))
    cells = api.cells_of(result).to_pylist()
    assert {(c["view"], c["column"], c["kind"]) for c in cells} == {("revenue_per_minute", "revenue_cents", "changed")}
    assert len(cells) == len(before)
    assert sum(int(c["replayed"]) - int(c["live"]) for c in cells) == sum(row[3] for row in before)
    assert revenue(home) == before
    promoted = api.promote(home, result)
    assert revenue(home) == [(*row[:4], row[4] + row[3], row[5]) for row in before]
    with pytest.raises(WarehouseError, match="stale"):
        api.promote(home, result)
    api.undo(home, promoted.promotion)
    assert revenue(home) == before
    with pytest.raises(WarehouseError, match="was undone"):
        api.undo(home, promoted.promotion)


def test_rows_that_were_redriven_are_in_the_replay_too(home):
    late = rows(home, "SELECT count(*) FROM late_events")[0][0]
    clicks = rows(home, "SELECT sum(clicks) FROM clicks_per_minute")[0][0]
    tally("redrive", "late")
    assert rows(home, "SELECT sum(clicks) FROM clicks_per_minute")[0][0] > clicks
    assert late > 20
    assert api.replay(home, ReplayRequest("diff")).cells == 0


def test_the_archive_gives_the_same_as_the_log(home):
    archive_committed(home, open_store(home))
    result = api.replay(home, ReplayRequest("diff", source="archive"))
    assert (result.cells, result.messages) == (0, rows(home, "SELECT sum(consumed)::BIGINT FROM ledger.offsets")[0][0])


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"topics": ("payments",)}, "there is no topic payments; the topics are orders and clicks"),
        ({"partitions": (7,)}, r"orders has no partition 7; it has \[0, 1\]"),
        ({"from_offset": 5, "to_offset": 5}, r"the range of offsets \[5, 5\) is empty"),
        ({"topics": ("clicks",), "to_offset": 10**9}, r"the warehouse has tallied \[0, \d+\)"),
        ({"from_time": datetime(2026, 1, 2), "to_time": datetime(2026, 1, 1)}, "the range of times"),
        ({"source": "archive"}, "run `tally archive`"),
    ],
)
def test_what_cannot_be_replayed_is_told_first(home, chosen, told):
    with pytest.raises((UsageError, WarehouseError), match=told):
        api.replay(home, ReplayRequest("diff", **chosen))
    assert not list((home.root / "sandboxes").glob("*"))


@pytest.mark.parametrize(
    ("place", "swapped"),
    [
        ("promote.after_begin", False),
        ("promote.after_swap", False),
        ("promote.before_commit", False),
        ("promote.after_commit", True),
    ],
)
def test_killed_anywhere_a_promotion_is_whole_or_nothing(home, tmp_path, place, swapped):
    before = revenue(home)
    views = buggy(tmp_path / "views")
    command = ["replay", "--mode", "promote", "--views", str(views)]
    tally(*command, code=-9, TALLY_FAILPOINT=place)
    after = [(*row[:4], row[4] + row[3], row[5]) for row in before]
    assert revenue(home) == (after if swapped else before)
    tally(*command)
    assert revenue(home) == after


def test_without_the_check_a_stale_difference_would_be_promoted(home, tmp_path, monkeypatch):
    """The negative control of the refusal above."""
    result = api.replay(home, ReplayRequest("diff", views_dir=buggy(tmp_path / "views")))
    api.promote(home, result)
    monkeypatch.setattr("tallystream.warehouse.promote._refuse_stale", lambda *_: None)
    api.promote(home, result)
    assert rows(home, "SELECT count(*) FROM ledger.promotions") == [(2,)]


def test_what_came_since_the_comparison_is_never_swapped_away(home, tmp_path):
    """The stream has gone on: only windows that were final are swapped, or none; no event is lost."""
    result = api.replay(home, ReplayRequest("diff", views_dir=buggy(tmp_path / "views")))
    tally("generate", "--events", "300", "--seed", "77")
    tally("run", "--until-end")
    before = revenue(home)
    watermark = rows(home, "SELECT watermark FROM ledger.watermarks WHERE topic = 'orders'")[0][0]
    try:
        promoted = api.promote(home, result)
    except WarehouseError as error:
        assert "stale" in str(error)
        assert revenue(home) == before
        return
    for was, row in zip(before, revenue(home), strict=True):
        if row[1] > watermark:
            assert row == was
    api.undo(home, promoted.promotion)
    assert revenue(home) == before
