"""Redriving that is killed, in pieces, and what a view built after it has: each event once."""

from __future__ import annotations

import json

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystream.warehouse import redrive as module
from tallystream.warehouse.commit import drop_state
from tallystream.warehouse.redrive import Summary
from tallystream.warehouse.redriven import counts, seed
from tests.oracle.judging import Message, decode
from tests.store.kill import killed_at
from tests.warehouse.filled import plans
from tests.warehouse.redrive.conftest import (
    HORIZON,
    LATENESS,
    Logs,
    books,
    click,
    drive,
    log,
    unreadable,
    views,
    views_are,
)
from tests.warehouse.stream import SCHEMAS, Stream

pytest_plugins = ["tests.store.fixtures"]


def test_many_rows_go_in_pieces(stream, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    s = stream(click("a", 0), click("b", 600), *(click(f"c{i % 8}", i) for i in range(10)))
    assert drive(s) == Summary(applied=8, duplicate=2)
    assert views(s) == 10
    views_are(s, books(s))


SCRIPT = """
import contextlib, sys, duckdb
from datetime import datetime
from tallystream.settings import load
from tallystream.warehouse import redrive as module
module.CHUNK = 2
class Nothing:
    def begins(self, *_): return 0
    def ids(self, *_): return iter(())
s = load()
module.redrive(duckdb.connect(str(s.warehouse)), s, "late", None, datetime(2026, 3, 2), Nothing(), contextlib.nullcontext(), False)
"""
FAILPOINTS = [
    "redrive.after_begin", "redrive.after_mark", "redrive.inside_merge:2",
    "redrive.before_commit:2", "redrive.after_commit",
]  # fmt: skip


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_anywhere_nothing_counts_twice_and_nothing_is_lost(failpoint, stream, monkeypatch):
    s = stream(click("a", 0), click("b", 600), *(click(f"c{i}", i) for i in range(5)))
    s.con.close()
    monkeypatch.setenv("TALLY_LATENESS", str(LATENESS))
    assert killed_at(failpoint, SCRIPT) == -9
    s.con = duckdb.connect(str(s.settings.warehouse))
    marked = s.con.execute("SELECT count(*) FROM ledger.redriven").fetchone()[0]
    assert views(s) == 2 + marked
    assert drive(s) == Summary(applied=5 - marked)
    assert views(s) == 7
    views_are(s, books(s))


def test_a_view_built_later_has_what_was_redriven(stream, mended):
    """Rebuilt from the log, judged anew: applied and redriven events, a copy that came later but once."""
    s = stream(click("a", 0), unreadable(click("d", 50)), click("b", 100), unreadable(click("n", 99)))
    drive(s, "dead")
    s.logs["clicks"][0] += [
        Message(4 + i, None, b"k", v) for i, v in enumerate([click("d", 50), click("z", 900), click("l", 7)])
    ]
    s.start(plans())
    s.to_end()
    drive(s)
    before = s.con.execute("SELECT * FROM clicks_per_minute ORDER BY ALL").fetchall()
    assert views(s) == 6
    plan = plans()["clicks_per_minute"]
    drop_state(s.con, plan.name, plan.version)
    s.start(plans())
    s.to_end()
    assert views(s) == 4
    s.con.execute("BEGIN")
    seed(s.con, s.settings, [plan], Logs(s.logs))
    s.con.execute("COMMIT")
    assert s.con.execute("SELECT * FROM clicks_per_minute ORDER BY ALL").fetchall() == before
    assert counts(s.con) == {("clicks", 0): {"late": 1, "dead": 2}}


def test_where_nothing_was_redriven_nothing_is_seeded(stream):
    s = stream(click("a", 0))
    seed(s.con, s.settings, plans().values(), Logs(s.logs))
    assert views(s) == 1
    assert counts(s.con) == {}


def test_marks_apart_from_the_views_would_be_noticed(stream, monkeypatch):
    """The negative control of atomicity: a merge that is lost while its mark stays."""
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    monkeypatch.setattr(module, "merge", lambda con, plan, partial: None)
    drive(s)
    with pytest.raises(AssertionError, match="clicks_per_minute"):
        views_are(s, books(s))


events = st.tuples(st.integers(0, 12), st.sampled_from([0, 30, 60, 100, 200, 400, 700]))
steps = st.lists(st.tuples(st.sampled_from(["late", "dead"]), st.integers(0, 40)), max_size=4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.one_of(events, st.none()), max_size=25), steps=steps, cut=st.integers(0, 25))
def test_each_event_is_in_the_views_once(messages, steps, cut, tmp_path_factory):
    """Copies have the time of the event they repeat; redrives come in any order, between commits too."""
    times: dict[int, int] = {}
    values = [b"bad" if m is None else click(f"e{m[0]}", times.setdefault(*m)) for m in messages]
    s = Stream(tmp_path_factory.mktemp("home"), {"orders": {0: []}, "clicks": {0: log(*values)}}, LATENESS, HORIZON)
    s.start(plans())
    delta = s.read("clicks", 0, cut) if cut else None
    if delta is not None:
        s.commit([delta])
    for kind, below in steps:
        drive(s, kind, f'"offset" < {below}')
    s.to_end(4)
    drive(s)
    extra = views_are(s, books(s))["clicks"]
    account = books(s)["clicks"][0]
    names = [e["event_id"] for e in [*account.applied, *extra]]
    assert len(names) == len(set(names)), json.dumps(names)
    assert set(names) == {e["event_id"] for e in (decode(b"k", v, SCHEMAS) for v in values) if e is not None}
    s.con.close()
