"""A log that is not the one tallied so far: a clear error, nothing changed, and `tally reset` goes on."""

from __future__ import annotations

import shutil

import pytest
from confluent_kafka import TopicPartition

from tallystream.topics import client
from tallystream.topics.client import ensure_topics, topic_logs
from tallystream.warehouse.control import open_prepared
from tests.servers.broker import delete_topics

from .killed import tally
from .shop import Shop, publish


def accounts(settings):
    with open_prepared(settings) as con:
        return con.execute("SELECT topic, partition, next_offset, consumed FROM ledger.offsets ORDER BY ALL").fetchall()


def made_anew(broker, settings) -> None:
    delete_topics(settings)
    ensure_topics(settings)


def wiped(broker, settings) -> None:
    broker.stop()
    shutil.rmtree(settings.broker_dir)
    assert broker.bootstrap
    ensure_topics(settings)


def retained(broker, settings) -> None:
    """The first half of the log is gone, unread."""
    publish(settings, Shop(99), 200)
    ends = {TopicPartition(t, p, high) for t, (_, r) in topic_logs(settings).items() for p, (_, high) in r.items()}
    for done in client.admin(settings).delete_records(list(ends)).values():
        done.result(30)


@pytest.mark.parametrize(
    "how", [made_anew, pytest.param(wiped, marks=pytest.mark.embedded), pytest.param(retained, marks=pytest.mark.kafka)]
)
def test_a_clear_error_and_a_reset_goes_on(broker, fresh_topics, how):
    settings = fresh_topics(2)
    publish(settings, Shop(31), 300)
    assert tally("run", "--until-end").returncode == 0
    before = accounts(settings)
    how(broker, settings)
    for _ in range(2):
        ran = tally("run", "--until-end")
        assert ran.returncode == 1
        assert "tally reset" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert accounts(settings) == before
    for topic in ("orders", "clicks"):
        reset = tally("reset", "--topic", topic, "--to", "earliest")
        assert reset.returncode == 0, reset.stderr
    publish(settings, Shop(32), 100)
    ran = tally("run", "--until-end")
    assert ran.returncode == 0, ran.stderr
    after = accounts(settings)
    assert sum(a[3] for a in after) == sum(b[3] for b in before) + 100
    ends = {(t, p): high for t, (_, r) in topic_logs(settings).items() for p, (_, high) in r.items()}
    assert {(t, p): o for t, p, o, _ in after} == ends
