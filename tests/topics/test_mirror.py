"""Offsets reach the consumer group now and then, and the last ones at the end: never one that is older than another."""

from __future__ import annotations

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

from tallystream.topics import client
from tallystream.topics.client import kafka_config
from tallystream.topics.mirror import OffsetMirror
from tallystream.topics.reader import CONSUMER
from tests.servers.broker import until


def group_offset(settings) -> int:
    wanted = ConsumerGroupTopicPartitions(CONSUMER["group.id"], [TopicPartition("orders", 1)])
    (found,) = client.admin(settings).list_consumer_group_offsets([wanted]).values()
    return found.result(30).topic_partitions[0].offset


@pytest.mark.parametrize("every", [0.0, 3600.0], ids=["each", "at the end"])
def test_the_group_has_the_last_offsets(fresh_topics, every):
    settings = fresh_topics(2)
    mirror = OffsetMirror(kafka_config(settings), every)
    mirror.send({("orders", 1): 7})
    if every:
        assert group_offset(settings) < 0
    else:
        until(lambda: group_offset(settings) == 7, "the first offset does not come")
    mirror.send({("orders", 1): 9, ("clicks", 0): 2})
    mirror.send({})
    mirror.close()
    until(lambda: group_offset(settings) == 9, "the last offset does not come")
