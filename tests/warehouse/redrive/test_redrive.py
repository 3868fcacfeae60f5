"""Late and dead rows go back into the views once, whatever kills the process, and never beside a copy of theirs."""

from __future__ import annotations

import pytest

from tallystream.errors import QueryError, WarehouseError
from tallystream.warehouse import redrive as module
from tallystream.warehouse.redrive import Summary
from tests.oracle.judging import Message
from tests.warehouse.filled import plans
from tests.warehouse.redrive.conftest import (
    BASE,
    NOW,
    Logs,
    books,
    click,
    drive,
    unreadable,
    views,
    views_are,
)

pytest_plugins = ["tests.store.fixtures"]


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
