"""The ceiling: a tuned consumer for each partition that takes `value()` of every message, and nothing else.

    python -m benchmarks.ceiling TOPIC

Prints {"events", "seconds"}; seconds count from the first assignment to the last message.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

from tallystream.settings import load
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.reader import CONSUMER, GATHER


def main(topic: str) -> None:
    settings = load()
    ranges = topic_logs(settings, [topic])[topic][1]
    config = {**CONSUMER, **kafka_config(settings)}
    began = time.perf_counter()
    left = []
    for partition, (low, high) in ranges.items():
        consumer = Consumer(config)
        consumer.assign([TopicPartition(topic, partition, low)])
        if high > low:
            left.append((consumer, high))
    events = 0
    while left:
        for consumer, high in list(left):
            messages = consumer.consume(GATHER, 0.0005)
            good = [m for m in messages if m.error() is None]
            events += len([m.value() for m in good])
            if good and good[-1].offset() + 1 >= high:
                left.remove((consumer, high))
    print(json.dumps({"events": events, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1])
