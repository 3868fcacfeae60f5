"""Late and dead rows go back into the views once, whatever kills the process, and never beside a copy of theirs."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallystream.errors import QueryError, WarehouseError
from tallystream.warehouse import redrive as module
from tallystream.warehouse import redriven
from tallystream.warehouse.commit import drop_state
from tallystream.warehouse.redrive import Summary, redrive
from tallystream.warehouse.redriven import counts, seed
from tests.oracle.books import compare_accounts, compare_views
from tests.oracle.judging import Message, decode, judge
from tests.store.kill import killed_at
from tests.warehouse.filled import plans
from tests.warehouse.stream import SCHEMAS, Stream, encode

pytest_plugins = ["tests.store.fixtures"]

BASE = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = datetime(2026, 3, 2)
LATENESS, HORIZON = 90, 240
CLICK = {
    "event_id": "", "event_type": "view", "event_time": BASE, "user_id": "k", "session_id": None,
    "product_id": "p1", "category": None, "brand": None, "url": None, "price_cents": None,
}  # fmt: skip


def click(name, second, **other):
    return encode("clicks", {**CLICK, "event_id": name, "event_time": BASE + timedelta(seconds=second), **other})


def log(*values):
    return [Message(i, None, b"k", v) for i, v in enumerate(values)]


class Logs:
    """A history over the test's own messages; `first` is what retention left."""

    def __init__(self, logs, first=0):
        self.logs, self.first, self.read = logs, first, 0

    def begins(self, topic, partition):
        return self.first

    def ids(self, topic, partition, until):
        self.read += 1
        events = [(m.offset, decode(m.key, m.value, SCHEMAS)) for m in self.logs[topic][partition]]
        kept = [(o, e["event_id"]) for o, e in events if e is not None and self.first <= o < until]
        yield np.array([o for o, _ in kept], np.int64), pa.chunked_array([pa.array([i for _, i in kept], pa.string())])


@pytest.fixture
def stream(home):
    """Makes an engine over clicks, all of them tallied."""

    def make(*values, **logs):
        s = Stream(home, {"orders": {0: []}, "clicks": {0: log(*values)}, **logs}, LATENESS, HORIZON)
        s.start(plans())
        s.to_end(1)
        return s

    return make


def drive(s, kind="late", where=None, history=None, live=False):
    return redrive(s.con, s.settings, kind, where, NOW, history or Logs(s.logs), contextlib.nullcontext(), live)


def books(s):
    rules = {"lateness": timedelta(seconds=LATENESS), "horizon": timedelta(seconds=HORIZON)}
    return {t: {p: judge(ms, SCHEMAS, **rules) for p, ms in by.items()} for t, by in s.logs.items()}


def views_are(s, kept):
    """Every cell of every view, from the events that should be in them; the accounts as the log alone says."""
    compare_accounts(s.con, kept)
    marks = s.con.execute(
        "SELECT topic, partition, \"offset\" FROM ledger.redriven WHERE verdict = 'applied'"
    ).fetchall()
    extra = {
        t: [decode(s.logs[t][p][o].key, s.logs[t][p][o].value, SCHEMAS) for t2, p, o in marks if t2 == t]
        for t in s.logs
    }
    events = {t: [*(e for account in kept[t].values() for e in account.applied), *extra.get(t, [])] for t in kept}
    compare_views(s.con, events)
    return extra


def views(s):
    found = s.con.execute("SELECT sum(clicks)::BIGINT FROM clicks_per_minute").fetchone()
    return found[0]


def test_late_rows_are_in_the_views_once(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10), click("d", 20))
    assert views(s) == 2
    assert drive(s) == Summary(applied=2)
    assert views(s) == 4
    assert drive(s) == Summary()
    assert views(s) == 4
    views_are(s, books(s))
    assert s.con.execute("SELECT count(*) FROM late_events").fetchone() == (2,)
    assert s.con.execute(
        'SELECT "offset", kind, verdict, event_id, redriven_at FROM ledger.redriven ORDER BY 1'
    ).fetchall() == [
        (2, "late", "applied", "c", NOW),
        (3, "late", "applied", "d", NOW),
    ]


def test_only_those_that_are_chosen(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10), click("d", 20), click("e", 30))
    assert drive(s, where="event_id = 'd' -- the middle one") == Summary(applied=1)
    assert drive(s, where='"offset" > 3 AND partition = 0') == Summary(applied=1)
    assert drive(s, where="false") == Summary()
    assert drive(s) == Summary(applied=1)
    assert views(s) == 5


@pytest.mark.parametrize(
    "where",
    [
        "1 = 1); DROP TABLE late_events; --",
        "nonsense",
        "sum(partition) > 1",
        "event_id =",
        "true) UNION SELECT 'clicks', 0, 0 --",
    ],
)
def test_a_where_that_is_no_condition_is_told(stream, where):
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    with pytest.raises(QueryError, match="nothing was changed"):
        drive(s, where=where)
    assert s.con.execute("SELECT count(*) FROM late_events").fetchone() == (1,)
    assert views(s) == 2


def test_rows_made_up_by_the_condition_are_not_taken(stream):
    """A UNION can name any offset: what is no condition by itself is refused."""
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    where = "false) UNION ALL (SELECT 'clicks', 0, 1 WHERE true"
    with pytest.raises(QueryError, match="nothing was changed"):
        drive(s, where=where)
    assert views(s) == 2


def test_a_late_copy_of_an_applied_event_is_a_duplicate(stream):
    """The trap: "late" is said before "duplicate"; 100 s is late and still remembered, 1000 s is forgotten."""
    s = stream(click("a", 0), click("b", 600), click("c", 450), click("a", 0), click("c", 450))
    history = Logs(s.logs)
    assert drive(s, history=history) == Summary(applied=1, duplicate=2)
    assert views(s) == 3
    assert history.read == 1
    views_are(s, books(s))


def test_what_the_judge_remembers_needs_no_history(stream):
    s = stream(click("a", 0), click("x", 450), click("b", 600), click("c", 450), click("x", 450))
    history = Logs(s.logs)
    assert drive(s, history=history) == Summary(applied=1, duplicate=1)
    assert history.read == 0


def test_a_longer_horizon_does_not_bring_back_what_was_forgotten(stream):
    s = stream(click("a", 0), click("b", 600), click("a", 0))
    s.con.execute("INSERT INTO ledger.rules SELECT topic, partition, 3, 90, 86400, 3600 FROM ledger.offsets")
    history = Logs(s.logs)
    assert drive(s, history=history) == Summary(duplicate=1)
    assert history.read == 1


def test_copies_among_the_late_ones_count_once_even_days_apart(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10), click("c", 10), click("c", 10))
    assert drive(s, where='"offset" = 3') == Summary(applied=1)
    assert drive(s) == Summary(duplicate=2)
    assert views(s) == 3


def test_without_the_check_a_copy_counts_twice(stream, monkeypatch):
    """The negative control: the tests above would pass if late copies did no harm."""
    s = stream(click("a", 0), click("b", 600), click("a", 0))
    monkeypatch.setattr(
        "tallystream.warehouse.copies.Applied.copies", lambda self, ids, times, h: (times < 0, times > 0)
    )
    drive(s)
    assert views(s) == 3


def test_what_retention_took_cannot_be_proved_and_stays(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    assert drive(s, history=Logs(s.logs, first=1)) == Summary(unproven=1)
    assert views(s) == 2
    assert drive(s) == Summary(applied=1)


def test_dead_letters_are_decoded_again(stream, monkeypatch):
    """A contract that was mended: what is an event now goes in, the rest stays dead with its reason."""
    s = stream(click("a", 0), b"\0\0\0\0\x63" + click("d", 5)[5:], click("b", 600), b"garbage", None)
    assert drive(s, "dead") == Summary(undecodable=3)
    folder = module.open_registry(s.settings)

    class Mended:
        def schema(self, number):
            return folder.schema(2 if number == 99 else number)

        def subjects(self, number):
            return folder.subjects(2 if number == 99 else number)

    monkeypatch.setattr(module, "open_registry", lambda _: Mended())
    assert drive(s, "dead", where="reason = 'unknown_schema'") == Summary(applied=1)
    assert drive(s, "dead") == Summary(undecodable=2)
    assert views(s) == 3
    assert s.con.execute("SELECT count(*) FROM dead_letters").fetchone() == (3,)


def test_an_event_ahead_of_its_own_timestamp_stays_dead(stream):
    early = int(BASE.timestamp() * 1000)
    messages = [Message(0, early, b"k", click("a", 0)), Message(1, early, b"k", click("b", 90_000))]
    s = stream(clicks={0: messages})
    assert drive(s, "dead") == Summary(ahead=1)
    assert views(s) == 1


def unreadable(value):
    return b"\0\0\0\0\x63" + value[5:]


@pytest.fixture
def mended(monkeypatch):
    folder = module.open_registry(type("S", (), {"schema_registry_url": None})())

    class Mended:
        def schema(self, number):
            return folder.schema(2 if number == 99 else number)

        def subjects(self, number):
            return folder.subjects(2 if number == 99 else number)

    for where in (module, redriven):
        monkeypatch.setattr(where, "open_registry", lambda _: Mended())


def test_a_young_dead_letter_waits_while_a_stream_runs(stream, mended):
    """Its producer may send it again: the running judge would apply the copy, for it knows nothing of this one."""
    s = stream(click("a", 0), unreadable(click("d", 50)), click("b", 100))
    assert drive(s, "dead", live=True) == Summary(waiting=1)
    assert views(s) == 2
    s.logs["clicks"][0].append(Message(3, None, b"k", click("e", 141)))
    s.start(plans())
    s.to_end()
    assert drive(s, "dead", live=True) == Summary(applied=1)
    assert views(s) == 4


def test_at_rest_the_next_judge_knows_it(stream, mended):
    s = stream(click("a", 0), unreadable(click("d", 50)), click("b", 100))
    assert drive(s, "dead") == Summary(applied=1)
    assert s.con.execute("SELECT remembered FROM ledger.redriven").fetchall() == [(True,)]
    s.logs["clicks"][0].append(Message(3, None, b"k", click("d", 50)))
    s.start(plans())
    s.to_end()
    assert views(s) == 3
    assert s.con.execute("SELECT duplicate FROM ledger.offsets WHERE topic = 'clicks'").fetchone() == (1,)


def test_a_redriven_row_goes_into_a_view_that_is_being_built(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    s.con.execute("UPDATE ledger.views SET status = 'building' WHERE name = 'top_products'")
    drive(s)
    assert s.con.execute("SELECT max(views) FROM top_products").fetchone() == (2,)


def test_views_of_another_version_are_refused(stream):
    s = stream(click("a", 0), click("b", 600), click("c", 10))
    s.con.execute("UPDATE ledger.views SET version = 'deadbeef' WHERE name = 'top_products'")
    with pytest.raises(
        WarehouseError, match=r"view top_products was kept by another Tallystream .* nothing was changed"
    ):
        drive(s)


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
