"""An engine over a few clicks, and what its views and books must be after rows of it were redriven."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from tallystream.warehouse import redrive as module
from tallystream.warehouse import redriven
from tallystream.warehouse.redrive import redrive
from tests.oracle.books import compare_accounts, compare_views
from tests.oracle.judging import Message, decode, judge
from tests.warehouse.filled import plans
from tests.warehouse.stream import SCHEMAS, Stream, encode

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
