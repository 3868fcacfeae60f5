"""The whole stream on the shop's own events: as the books, again, in parallel, and to a signal."""

from __future__ import annotations

import signal
import time

import pytest

from tallystream.warehouse.control import open_prepared
from tallystream.warehouse.live import live_address
from tests.oracle.books import compare, keep, read_log
from tests.servers.broker import PATIENCE, until

from .killed import compare_all, compare_prefix, stream, tally
from .shop import Publishing, Shop, publish


def generate(seed: int) -> None:
    made = tally(
        *("generate", "--events", "2500", "--seed", str(seed)),
        *("--duplicates", "0.02", "--disorder", "30", "--malformed", "12"),
    )
    assert made.returncode == 0, made.stderr


def state(settings) -> dict[str, list[object]]:
    with open_prepared(settings) as con:
        tables = (
            "ledger.offsets",
            "ledger.commits",
            "main.order_status",
            "main.clicks_per_minute",
            "main.dead_letters",
        )
        return {t: con.execute(f"FROM {t} ORDER BY ALL").fetchall() for t in tables}


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_a_bounded_run_is_as_the_books_say_and_so_is_the_next(fresh_topics, workers):
    settings = fresh_topics(2)
    generate(1)
    ran = tally("run", "--until-end", "--workers", workers)
    assert ran.returncode == 0, ran.stderr
    books = keep(settings)
    accounts = [a for by in books.values() for a in by.values()]
    assert sum(len(a.dead) for a in accounts) >= 12
    assert sum(len(a.duplicate) for a in accounts) > 0
    compare_all(settings)
    before = state(settings)
    assert tally("run", "--until-end", "--workers", workers).returncode == 0
    assert state(settings) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_last_commit_and_no_second_stream_begins(fresh_topics, number):
    settings, shop = fresh_topics(2), Shop(3)
    publish(settings, shop, 300)
    with stream("--workers", "2") as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        second = tally("run", "--until-end")
        assert second.returncode == 1
        assert "Traceback" not in second.stderr
        with Publishing(settings, shop):
            running.send_signal(number)
            assert running.wait(PATIENCE) == 0
    with open_prepared(settings) as con:
        compare_prefix(con, settings)
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)


def test_a_signal_commits_what_was_read_and_not_yet_committed(fresh_topics, monkeypatch):
    """With a minute between commits, all that is in the file afterwards is the last commit's."""
    monkeypatch.setenv("TALLY_EPOCH_MS", "60000")
    settings = fresh_topics(2)
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        publish(settings, Shop(3), 300)
        time.sleep(3)
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 0
    with open_prepared(settings) as con:
        commits, consumed = con.execute(
            "SELECT count(DISTINCT id), sum(consumed)::BIGINT FROM ledger.commits"
        ).fetchone()
        compare(con, keep(settings))
    assert commits == 1
    assert consumed == sum(len(log) for topic in ("orders", "clicks") for log in read_log(settings, topic).values())
