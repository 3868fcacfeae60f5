"""A log that is not the one tallied so far: a clear error, nothing changed, and `tally reset` goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
from confluent_kafka import TopicPartition

from tallystream.topics import client
from tallystream.topics.client import ensure_topics, topic_logs
from tallystream.warehouse.control import open_prepared
from tallystream.warehouse.live import live_address
from tallystream.warehouse.read import open_reader
from tests.servers.broker import delete_topics, until

from .killed import compare_all, stream, tally
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


def made_anew_and_longer(broker, settings) -> None:
    """The stored offsets are in the new log too: only its records tell that it is another one."""
    made_anew(broker, settings)
    publish(settings, Shop(98), 600)


def made_anew_with_fewer_partitions(broker, settings) -> None:
    delete_topics(settings)
    ensure_topics(settings.model_copy(update={"partitions": 1}))


def wiped_and_longer(broker, settings) -> None:
    wiped(broker, settings)
    publish(settings, Shop(98), 600)


def retained(broker, settings) -> None:
    """The first half of the log is gone, unread."""
    publish(settings, Shop(99), 200)
    ends = {TopicPartition(t, p, high) for t, (_, r) in topic_logs(settings).items() for p, (_, high) in r.items()}
    for done in client.admin(settings).delete_records(list(ends)).values():
        done.result(30)


@pytest.mark.parametrize(
    "how",
    [
        made_anew,
        made_anew_and_longer,
        made_anew_with_fewer_partitions,
        pytest.param(wiped, marks=pytest.mark.embedded),
        pytest.param(wiped_and_longer, marks=pytest.mark.embedded),
        pytest.param(retained, marks=pytest.mark.kafka),
    ],
)
def test_a_clear_error_and_a_reset_goes_on(broker, fresh_topics, how):
    settings = fresh_topics(2)
    publish(settings, Shop(31), 300)
    assert tally("run", "--until-end").returncode == 0
    before = accounts(settings)
    how(broker, settings)
    ran = tally("run", "--until-end")
    assert ran.returncode == 1
    assert "tally reset" in ran.stderr
    assert any(str(row[2]) in ran.stderr for row in before), "no offset is named"
    assert "Traceback" not in ran.stderr
    assert accounts(settings) == before
    lost = {(t, p): low for t, (_, r) in topic_logs(settings).items() for p, (low, _) in r.items()}
    for topic in ("orders", "clicks"):
        reset = tally("reset", "--topic", topic, "--to", "earliest")
        assert reset.returncode == 0, reset.stderr
    publish(settings, Shop(32), 100)
    ran = tally("run", "--until-end")
    assert ran.returncode == 0, ran.stderr
    after = accounts(settings)
    ends = {(t, p): high for t, (_, r) in topic_logs(settings).items() for p, (_, high) in r.items()}
    assert {(t, p): o for t, p, o, _ in after if (t, p) in ends} == ends
    told = json.loads(tally("status", "--json").stdout)
    assert told["balanced"]
    assert {(p["topic"], p["partition"]) for p in told["gone"]} == {(t, p) for t, p, _, _ in after} - set(ends)
    # All that the log had was read, from its beginning.
    assert sum(a[3] for a in after) == sum(b[3] for b in before) + sum(ends.values()) - sum(lost.values())


def consumed(settings) -> int:
    with open_reader(settings) as reader:
        return reader.rows("SELECT coalesce(sum(consumed), 0)::BIGINT FROM ledger.offsets")[2][0][0]


@pytest.mark.embedded
@pytest.mark.parametrize("lost", [False, True], ids=["nothing lost", "its end lost"])
def test_the_broker_is_killed_in_mid_stream_and_grows_again(broker, fresh_topics, lost):
    """Its clients come back seconds after it does: by then the log has passed the offset they ask for."""
    settings = fresh_topics(2)
    kept = settings.broker_dir / "data" / "kafka.json"
    publish(settings, Shop(33), 300)
    broker.restart()
    shutil.copy(kept, kept.with_name("before"))
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        publish(settings, Shop(34), 200)
        until(lambda: consumed(settings) == 500, "not all was read")
        time.sleep(1.0)  # it saves what it has within half a second
        broker.kill()
        if lost:
            # What it had not saved is gone: as when it dies within half a second.
            shutil.copy(kept.with_name("before"), kept)
        assert broker.bootstrap
        publish(settings, Shop(35), 600)
        if lost:
            assert running.wait(60) == 1
            told = running.stderr.read()
            assert "tally reset" in told
            assert "Traceback" not in told
        else:
            until(lambda: live_address(settings) is not None and consumed(settings) == 1100, "it does not go on")
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait(40) == 0
            compare_all(settings)
    assert sum(row[3] for row in accounts(settings)) == (500 if lost else 1100)
