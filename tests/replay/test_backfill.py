"""Backfills of a warehouse at rest: late events come in once, what is wrong is mended, what somebody promoted stays."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import pytest

from tallystream.errors import UsageError
from tallystream.replay import api
from tallystream.replay.backfill import backfill
from tallystream.replay.request import ReplayRequest
from tallystream.store.objects import open_store
from tallystream.warehouse.operate import archive_committed
from tests.oracle.books import compare_accounts, compare_views, keep, read_log, schemas
from tests.oracle.judging import decode
from tests.replay.shop import RULES, buggy, revenue, rows

pytestmark = pytest.mark.embedded
EVER = datetime(2000, 1, 1), datetime(2100, 1, 1)


def as_the_books_say(home):
    """Every view, from the accepted events and from what was redriven, by the oracle; the verdicts stand."""
    books, known = keep(home, **RULES), schemas()
    logs = {topic: read_log(home, topic) for topic in books}
    with duckdb.connect(str(home.warehouse), read_only=True) as con:
        compare_accounts(con, books)
        marks = con.execute(
            "SELECT topic, partition, \"offset\" FROM ledger.redriven WHERE verdict = 'applied'"
        ).fetchall()
        events = {t: [e for a in by.values() for e in a.applied] for t, by in books.items()}
        for topic, partition, offset in marks:
            (message,) = [m for m in logs[topic][partition] if m.offset == offset]
            events[topic].append(decode(message.key, message.value, known))
        compare_views(con, {t: [e for e in es if e["event_type"] != "heartbeat"] for t, es in events.items()})
    return len(marks)


def revenue_table(home):
    """The name of the state of revenue_per_minute."""
    query = "SELECT 'revenue_per_minute__' || version FROM ledger.views WHERE name = 'revenue_per_minute'"
    return rows(home, query)[0][0]


def spoil(home, where="true"):
    """One order more in each row of euros, behind the stream's back."""
    table = revenue_table(home)
    with duckdb.connect(str(home.warehouse)) as con:
        for suffix in ("", "__cold"):
            con.execute(f"UPDATE state.\"{table}{suffix}\" SET a0 = a0 + 1 WHERE k0 = 'EUR' AND {where}")


def test_late_events_of_the_range_come_in_once_and_stay(home):
    """As the nightly job does: those of the hours, once; a second night finds nothing to do, and takes none out."""
    (middle,) = rows(home, "SELECT quantile_disc(event_time, 0.5) FROM late_events")[0]
    late, before = (
        rows(home, f"SELECT count(*) FROM late_events WHERE event_time {op} '{middle}'")[0][0] for op in ("<", ">=")
    )
    assert late > 5 and before > 5
    done = backfill(home, EVER[0], middle, source="kafka")
    assert sum(done.late.values()) == late and done.late["applied"] > 5
    assert (done.cells, done.promotion, done.not_promoted) == (0, None, {})
    assert as_the_books_say(home) == done.late["applied"]
    views = rows(home, "SELECT * FROM clicks_per_minute ORDER BY ALL")
    again = backfill(home, EVER[0], middle, source="kafka")
    assert (again.late["applied"], again.cells, again.promotion) == (0, 0, None)
    assert rows(home, "SELECT * FROM clicks_per_minute ORDER BY ALL") == views
    assert rows(home, "SELECT count(*) FROM ledger.redriven WHERE verdict = 'applied'")[0][0] == done.late["applied"]


def test_late_events_survive_a_backfill_that_swaps_their_windows(home):
    """The archive has a late event's columns and not its bytes: a backfill from it once took every redriven one out again."""
    archive_committed(home, open_store(home))
    spoil(home)
    done = backfill(home, *EVER)
    assert done.late["applied"] > 20 and done.promotion is not None
    assert {v["view"] for v in done.views if v["changed"]} == {"revenue_per_minute"}
    assert as_the_books_say(home) == done.late["applied"]
    assert backfill(home, *EVER).cells == 0


def test_a_backfill_mends_rows_that_are_wrong(home):
    before = revenue(home)
    spoil(home)
    table = revenue_table(home)
    with duckdb.connect(str(home.warehouse)) as con:
        (least,) = con.execute("SELECT min(window_start) FROM revenue_per_minute").fetchone()
        # A row too many, and one too few.
        con.execute(f"DELETE FROM state.\"{table}__cold\" WHERE k0 = 'USD' AND window_start = ?", [least])
        con.execute(f"DELETE FROM state.\"{table}\" WHERE k0 = 'USD' AND window_start = ?", [least])
    assert revenue(home) != before
    done = backfill(home, *EVER, source="kafka", late=False)
    assert {v["view"] for v in done.views if v["added"] or v["changed"]} == {"revenue_per_minute"}
    assert revenue(home) == before
    # What a backfill made is the truth, and no obstacle for the next one.
    spoil(home)
    assert backfill(home, *EVER, source="kafka", late=False).promotion == done.promotion + 1
    assert revenue(home) == before


@pytest.mark.parametrize("half", [False, True])
def test_what_was_promoted_stays_until_it_is_undone(home, tmp_path, half):
    """A corrected view was promoted into all windows, or into the first half of them; others are mended beside it."""
    before = revenue(home)
    middle = sorted({row[0] for row in before})[len({row[0] for row in before}) // 2] if half else None
    chosen = {"views_dir": buggy(tmp_path / "views")} | ({"to_time": middle} if half else {})
    promoted = api.replay(home, ReplayRequest("promote", **chosen))
    after = revenue(home)
    assert sum(a != b for a, b in zip(after, before, strict=True)) == sum(not half or r[0] < middle for r in before)
    spoil(home, f"window_start >= '{middle}'" if half else "false")
    done = backfill(home, *EVER, source="kafka", late=False)
    (view,) = [v for v in done.views if v["view"] == "revenue_per_minute"]
    assert view["spared"] == sum(not half or r[0] < middle for r in before) > 0
    assert view["promotions"] == (promoted.promotion,)
    assert revenue(home) == after
    assert (done.promotion is not None) is half
    if done.promotion:
        # Its undo puts back what it replaced, and not the promoted rows beside it.
        api.undo(home, done.promotion)
        assert revenue(home)[: view["spared"]] == after[: view["spared"]] and revenue(home) != after
        backfill(home, *EVER, source="kafka", late=False)
    api.undo(home, promoted.promotion)
    assert revenue(home) == before
    assert backfill(home, *EVER, source="kafka", late=False).cells == 0


def test_a_view_that_cannot_be_swapped_is_told_and_one_without_windows_is_looked_at(home):
    version = dict(rows(home, "SELECT name, version FROM ledger.views"))
    with duckdb.connect(str(home.warehouse)) as con:
        con.execute(f'UPDATE state."order_status__{version["order_status"]}" SET a6 = a6 + 1 WHERE rowid = 0')
        for suffix in ("", "__cold"):
            con.execute(f'UPDATE state."sessions__{version["sessions"]}{suffix}" SET a0 = a0 + 1')
    done = backfill(home, *EVER, source="kafka", late=False)
    assert set(done.not_promoted) == {"order_status", "sessions"} and done.promotion is None
    assert "no windows" in done.not_promoted["order_status"] and "builds it anew" in done.not_promoted["sessions"]
    assert {v["view"]: v["left_out"] for v in done.views if v["left_out"]} == {}


def test_a_range_without_an_event_is_refused_with_what_there_is(home):
    """2030 would differ in nothing, and look well."""
    with pytest.raises(
        UsageError, match=r"no event of orders or clicks lies in \[2030.*orders: event times 20\d\d-.* to "
    ):
        backfill(home, datetime(2030, 1, 1), datetime(2030, 1, 2))
    with pytest.raises(UsageError, match=r"clicks/1 \[0, \d+\)"):
        api.replay(home, ReplayRequest("diff", to_time=datetime(2000, 1, 1)))
    first = rows(home, "SELECT max(window_start) FROM revenue_per_minute WHERE is_final")[0][0]
    with pytest.raises(UsageError, match="nothing was compared"):
        api.replay(home, ReplayRequest("diff", from_time=first, to_time=first + timedelta(seconds=30)))
    assert not list((home.root / "sandboxes").glob("*"))
