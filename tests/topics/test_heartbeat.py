"""Heartbeats: one in every partition, whole events by the contract, and idle partitions are named."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from typer.testing import CliRunner

from tallystream.cli.main import app
from tallystream.topics.generate import generate
from tallystream.topics.heartbeat import send_heartbeats
from tallystream.topics.shop import Shop
from tallystream.warehouse.status import idle
from tests.oracle.books import read_log, schemas
from tests.oracle.judging import decode


@pytest.mark.parametrize("topic", ["orders", "clicks"])
def test_every_partition_gets_one_that_the_contract_takes(fresh_topics, topic):
    settings = fresh_topics(3)
    assert send_heartbeats(settings, [topic], 1_700_000_000_000_000) == {topic: 3}
    for log in read_log(settings, topic).values():
        (message,) = log
        event = decode(message.key, message.value, schemas())
        assert event["event_type"] == "heartbeat"
        assert event["event_time"] == datetime(2023, 11, 14, 22, 13, 20)


def test_generate_tells_every_partition_its_newest_time(fresh_topics):
    settings = fresh_topics(3)
    shop = Shop(50, 1, int(time.time() * 1e6) - 300_000_000)
    done = generate(settings, shop, heartbeat=True)
    assert done.heartbeats == 6
    times = []
    for topic in ("orders", "clicks"):
        for log in read_log(settings, topic).values():
            events = [decode(m.key, m.value, schemas()) for m in log]
            assert [e["event_type"] for e in events].count("heartbeat") == 1
            assert events[-1]["event_time"] == max(e["event_time"] for e in events)
            times.append(events[-1]["event_time"])
    assert len(set(times)) == 1


def test_the_command_refuses_what_would_be_dead_or_unclear(home):
    run = CliRunner().invoke
    for args, told in (
        (["--heartbeat", "--time", "2999-01-01T00:00:00Z"], "ahead of the clock"),
        (["x.ndjson", "--heartbeat"], "takes no file"),
        (["x.ndjson"], "which file goes to which topic"),
        (["x.ndjson", "--topic", "orders", "--time", "2026-01-01T00:00:00Z"], "what --heartbeat tells"),
    ):
        result = run(app, ["produce", *args])
        assert told in str(result.exception), args


def partition(number, watermark, lag=0, topic="clicks"):
    return {"topic": topic, "partition": number, "lag": lag, "watermark": watermark, "lateness_seconds": 600}


def test_idle_are_those_that_are_read_and_hold_the_watermark_back():
    found = idle(
        [
            partition(0, "2026-01-01T12:00:00Z"),
            partition(1, "2026-01-01T11:50:00Z"),  # as far behind as may be
            partition(2, "2026-01-01T11:49:59Z"),
            partition(3, "2026-01-01T10:00:00Z", lag=5),  # not idle: it has not been read yet
            partition(4, None),
            partition(0, None, topic="orders"),  # nothing was said in the whole topic
        ]
    )
    assert found == [
        {"topic": "clicks", "partition": 2, "behind_seconds": 601.0},
        {"topic": "clicks", "partition": 4, "behind_seconds": None},
    ]
