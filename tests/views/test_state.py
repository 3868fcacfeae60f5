"""What plans keep: bounded, dropped when final, and needed: without it the books do not agree."""

from __future__ import annotations

import pytest

from tallystream.views.loader import load_view
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan
from tests.oracle.batch import database as at_once
from tests.views.by_hand import bag
from tests.views.shapes import SHAPES
from tests.views.test_every_shape import LATENESS, accepted, freeze, logs_of, plans, shown
from tests.warehouse.stream import Stream

CLICK = ("ann", "view", "p1", "x", "/a", 7)


def stream_of(folder, clicks, orders=(), n=1):
    s = Stream(folder, logs_of((clicks, orders, False)), LATENESS, 3600)
    s.start(plans())
    s.to_end(n)
    return s


def agrees(stream, name):
    return shown(stream, name) == bag(SHAPES[name][1](accepted(stream.logs)))


def test_an_event_between_two_sessions_joins_them_and_one_exactly_a_gap_away_does_not(tmp_path):
    s = stream_of(tmp_path, [(0, *CLICK), (8, *CLICK), (4, *CLICK), (13, *CLICK)])
    rows = s.con.execute(
        "SELECT n, cents, epoch(window_end - window_start) FROM main.session_rows ORDER BY ALL"
    ).fetchall()
    assert rows == [(1, 7, 5.0), (3, 21, 13.0)]
    assert agrees(s, "session_rows")


def test_without_the_stored_sessions_the_books_do_not_agree(tmp_path, monkeypatch):
    """A negative control: a merge that looks at the delta alone is noticed."""
    monkeypatch.setattr(SessionPlan, "_near", lambda self, s, d: "false")
    s = stream_of(tmp_path, [(0, *CLICK), (8, *CLICK), (4, *CLICK)])
    assert not agrees(s, "session_rows")


def test_without_the_members_kept_a_user_counts_twice(tmp_path):
    """A negative control of count(DISTINCT): a member that is forgotten while its window is open is counted again."""
    for folder, forgets in (("a", False), ("b", True)):
        s = stream_of(tmp_path / folder, [(1, *CLICK), (2, *CLICK)], n=1)
        s.start(plans())
        assert agrees(s, "distinct_hop")
        if forgets:
            s.con.execute(f"DELETE FROM {s.plans['distinct_hop'].table('__m1')}")
        again = logs_of(([(1, *CLICK), (2, *CLICK), (2, *CLICK)], [], False))
        s.logs = again
        s.start(plans())
        s.to_end(1)
        assert agrees(s, "distinct_hop") is not forgets
        s.con.close()


@pytest.mark.parametrize("name", ["last_click_near", "first_click"])
def test_a_click_that_comes_after_its_order_and_one_that_comes_twice(name, tmp_path):
    order = (10, "ann", "OrderCreated", "o1", [])
    s = stream_of(tmp_path, [(12, *CLICK), (5, *CLICK), (5, *CLICK), (3, *CLICK)], [order])
    assert agrees(s, name)
    s.start(plans())
    assert s.con.execute(f"SELECT click_id, is_final FROM main.{name}").fetchall() == [
        ({"last_click_near": "c2", "first_click": "c3"}[name], False)
    ]


def test_a_row_is_final_when_both_watermarks_have_passed_it(tmp_path):
    orders = [(10, "ann", "OrderCreated", "o1", []), (10, "ann", "OrderCreated", "o2", [])]
    later = [(60, "ann", "PaymentCompleted", "o1", []), (60, "ann", "PaymentCompleted", "o2", [])]
    clicks, both = [(5, *CLICK), (5, "bob", *CLICK[1:])], [(60, *CLICK), (60, "bob", *CLICK[1:])]
    for i, (c, o, final) in enumerate(
        [(clicks, orders + later, False), (clicks + both, orders, False), (clicks + both, orders + later, True)]
    ):
        s = stream_of(tmp_path / str(i), c, o)
        assert {f for (f,) in s.con.execute("SELECT is_final FROM main.last_click").fetchall()} == {final}
        s.con.close()


def test_state_is_what_is_open_whatever_the_history(tmp_path):
    """A thousand seconds of clicks and orders: what is kept to be changed is that of the last ones."""
    clicks, orders = [], []
    for at in range(0, 1000, 2):
        clicks += [(at, u, "view", f"p{at % 3}", "x", "/a", 1) for u in ("ann", "bob")]
        orders += [(at, "ann", "OrderCreated", o, [("p1", 1, 100)]) for o in ("o1", "o2")]
    logs = logs_of((clicks, orders, False))
    for topic in logs:
        for log in logs[topic].values():
            assert len(log) >= 500
    s = Stream(tmp_path, logs, LATENESS, 3600)
    s.start(plans())
    sizes = []
    for _ in range(20):
        s.commit([d for t, p in s.starts if (d := s.read(t, p, 50)) is not None])
        freeze(s, 10_000)
        found = {}
        for plan in s.plans.values():
            tables = [plan.state] if plan.window else []
            if isinstance(plan, AttributionPlan):
                tables.append(plan.right)
            if isinstance(plan, GroupedPlan):
                tables += [plan.table(f"__m{i}") for i in plan.members]
            found |= {t: s.con.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables}
        sizes.append(found)
    for table in sizes[0]:
        early, late = max(size[table] for size in sizes[4:8]), sizes[-1][table]
        assert late <= early, f"{table} grows: {[size[table] for size in sizes]}"
    assert all(agrees(s, name) for name in SHAPES)


def test_frozen_members_are_gone_and_their_count_stays(tmp_path):
    s = stream_of(tmp_path, [(1, *CLICK), (1, "bob", *CLICK[1:]), (60, *CLICK), (60, "bob", *CLICK[1:])])
    before = shown(s, "distinct_hop")
    freeze(s, 10_000)
    plan = s.plans["distinct_hop"]
    assert plan.forgets
    assert shown(s, "distinct_hop") == before
    late = "TIMESTAMP '2026-03-01 12:00:30'"
    assert s.con.execute(f"SELECT count(*) FROM {plan.table('__m1')} WHERE window_start < {late}").fetchone() == (0,)
    assert s.con.execute(f"SELECT count(*) > 0 FROM {plan.cold}").fetchone() == (True,)


def test_a_member_is_counted_by_its_filter_alone(tmp_path):
    cart = ("ann", "cart", "p1", "y", None, None)
    s = stream_of(tmp_path, [(1, *CLICK), (1, *cart), (2, *cart)])
    assert s.con.execute("SELECT DISTINCT users, brands FROM main.distinct_hop WHERE n = 3").fetchall() == [(1, 1)]


def test_an_event_that_an_expression_cannot_take_is_null_and_stops_nothing(tmp_path):
    """An overflow, a cast of text: one event of anyone's would otherwise end every run."""
    view = (
        "SELECT product_id, CAST(product_id AS INTEGER) AS number, sum(quantity * unit_price_cents) AS cents, "
        "count(*) FILTER (WHERE quantity + unit_price_cents > 0) AS some, count(*) AS n FROM order_items GROUP BY ALL"
    )
    (tmp_path / "v.sql").write_text(view)
    items = [("7", 2, 5), ("7", 2**62, 2**62), ("p1", 1, 1)]
    s = Stream(
        tmp_path / "home", logs_of(([], [(1, "ann", "OrderCreated", "o1", [i]) for i in items], False)), LATENESS, 3600
    )
    plan = load_view(tmp_path / "v.sql")
    s.start({"v": plan})
    s.to_end(2)
    wanted = [("7", 7, 10, 1, 2), ("p1", None, 1, 1, 1)]
    assert s.con.execute("SELECT * FROM main.v ORDER BY ALL").fetchall() == wanted
    assert sorted(at_once(accepted(s.logs)).execute(plan.batch_sql()).fetchall()) == wanted
