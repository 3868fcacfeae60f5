"""After a change of the rules, a view built from the log agrees with the books: each offset is judged as it was."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tallystream.topics.judge import Rules
from tallystream.topics.memory import Ids, Memory, hash_ids
from tallystream.topics.rule_history import RuleHistory, histories
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.read import open_reader
from tests.oracle.judging import Message
from tests.recovery.killed import tally
from tests.recovery.shop import Shop, publish

from .stream import Stream, encode
from .test_exactly_once import BASE

COUNTED = "SELECT event_id, count(*) AS n FROM clicks GROUP BY ALL"


@cache
def plans(*names: str) -> dict[str, ViewPlan]:
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / f"{name}.sql").write_text(COUNTED)
        return load_views(Path(folder))


def clicks(events: list[tuple[str, int]]) -> list[Message]:
    """Of (event_id, seconds)."""
    event = {
        "event_type": "view", "user_id": "ann", "session_id": None, "product_id": None, "category": None, "brand": None,
        "url": None, "price_cents": None,
    }  # fmt: skip
    return [
        Message(i, None, b"ann", encode("clicks", {**event, "event_id": n, "event_time": BASE + timedelta(seconds=s)}))
        for i, (n, s) in enumerate(events)
    ]


def applied(events: list[tuple[str, int]], changes: list[tuple[int, int, int]]) -> Counter[str]:
    """How often each id is applied, one event at a time; `changes`: (from offset, lateness, horizon)."""
    found: Counter[str] = Counter()
    seen: dict[str, int] = {}
    newest, horizon = None, 0
    for offset, (name, time) in enumerate(events):
        rules = [c for c in changes if c[0] <= offset][-1]
        if newest is not None and rules[2] != horizon:
            # What the rules until here have forgotten stays forgotten.
            seen = {n: t for n, t in seen.items() if t >= newest - horizon}
        _, lateness, horizon = rules
        if newest is not None and time < newest - lateness:
            continue
        if newest is not None and name in seen and seen[name] >= newest - horizon:
            continue
        found[name] += 1
        seen[name] = max(time, seen.get(name, time))
        newest = time if newest is None else max(newest, time)
    return found


rules = st.sampled_from([(0, 0), (0, 300), (60, 60), (60, 300), (200, 200), (200, 300)])
runs = st.lists(
    st.tuples(rules, st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 400)), max_size=8)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs=runs, batch=st.integers(1, 5), again=st.integers(1, 30))
@example(runs=[((0, 60), [("a", 0), ("b", 100)]), ((60, 300), [("a", 95)])], batch=2, again=30)
@example(runs=[((60, 60), [("a", 0), ("b", 100)]), ((200, 200), [("a", 0), ("c", 5)])], batch=1, again=30)
@example(runs=[((60, 60), [("a", 0), ("b", 100)]), ((0, 0), []), ((60, 60), [("b", 60), ("c", 50)])], batch=2, again=30)
def test_a_view_added_later_is_judged_as_the_log_was(runs, batch, again):
    events, changes = [], []
    with tempfile.TemporaryDirectory() as folder:
        stream = Stream(Path(folder), {"orders": {0: []}, "clicks": {0: []}}, 600, 600)
        for (lateness, horizon), more in runs:
            if changes and changes[-1][0] == len(events):
                changes.pop()
            changes.append((len(events), lateness, horizon))
            events += more
            stream.logs["clicks"][0] = clicks(events)
            stream.judge_by(lateness, horizon)
            stream.start(plans("first"))
            stream.to_end(batch)
        stream.start(plans("first", "later"))
        stream.to_end(again)
        wanted = sorted(applied(events, changes).items())
        for view in ("first", "later"):
            assert stream.con.execute(f"FROM main.{view} ORDER BY ALL").fetchall() == wanted, view
        stream.con.close()


def test_a_history_tells_the_rules_of_each_offset():
    history = histories([("t", 0, 5, 60, 60, 1), ("t", 0, 9, 90, 90, 1), ("t", 1, 0, 1, 1, 1)])["t", 0]
    assert isinstance(history, RuleHistory)
    old, new = Rules(60_000_000, 60_000_000, 1_000_000), Rules(90_000_000, 90_000_000, 1_000_000)
    assert [history.at(n) for n in (0, 5, 8, 9, 99)] == [old, old, old, new, new]
    assert [history.next_change(n) for n in (0, 5, 8, 9, 99)] == [9, 9, 9, None, None]


def test_a_memory_forgets_to_the_microsecond():
    low, high = hash_ids(pa.array([f"e{i}" for i in range(100)]))
    order, memory = low.argsort(), Memory()
    ids = Ids(low[order], high[order], np.arange(100)[order])
    memory.add(ids, 0)
    memory.forget(40)
    assert sorted(time for time in memory.newest(ids).tolist() if time >= 0) == list(range(40, 100))


def test_the_processes_build_a_view_by_the_rules_of_then(fresh_topics, monkeypatch, tmp_path):
    """Lateness 60, then 600: what comes 200 s after its time is late to the first, and not to the second."""
    settings, shop = fresh_topics(2), Shop(61)
    (tmp_path / "first.sql").write_text(COUNTED)
    late = []
    for lateness in ("60", "600"):
        monkeypatch.setenv("TALLY_LATENESS", lateness)
        for _ in range(3):
            publish(settings, shop, 100)
            shop.back(200)
        assert tally("run", "--until-end", "--views", str(tmp_path)).returncode == 0
        with open_reader(settings) as reader:
            late.append(reader.rows("SELECT sum(late)::BIGINT FROM ledger.offsets")[2][0][0])
    assert late[0] > 50
    assert late[1] - late[0] < late[0] / 2
    (tmp_path / "later.sql").write_text(COUNTED)
    assert tally("run", "--until-end", "--views", str(tmp_path)).returncode == 0
    with open_reader(settings) as reader:
        first, later = (reader.rows(f"FROM {view} ORDER BY ALL")[2] for view in ("first", "later"))
        applied_clicks = reader.rows("SELECT sum(applied)::BIGINT FROM ledger.offsets WHERE topic = 'clicks'")[2][0][0]
    assert later == first
    assert sum(n for _, n in later) == applied_clicks
