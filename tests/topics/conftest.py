"""Commands as a user types them, and what they left in the log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tallystream.settings import PROJECT
from tallystream.topics.client import ensure_topics, kafka_config, log_range

SHARED = PROJECT.parent / "shared"


@pytest.fixture
def tally(settings, monkeypatch, capsys):
    """Runs a command as a user would, in this process: (exit code, stdout, stderr)."""
    from tallystream.cli.main import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tally", *arguments])
        monkeypatch.setenv("COLUMNS", "250")
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


@pytest.fixture
def messages(settings):
    """All messages of a topic: {partition: [(key, value), ...]} in log order."""

    def read(topic: str) -> dict[int, list[tuple[bytes | None, bytes | None]]]:
        ranges = log_range(settings, topic, ensure_topics(settings, [topic])[topic])
        found: dict[int, list[tuple[bytes | None, bytes | None]]] = {p: [] for p in ranges}
        consumer = Consumer({**kafka_config(settings), "group.id": "test", "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ranges.items()])
            while any(len(found[p]) < high - low for p, (low, high) in ranges.items()):
                for message in consumer.consume(10_000, 0.1):
                    assert message.error() is None
                    found[message.partition()].append((message.key(), message.value()))
        finally:
            consumer.close()
        return found

    return read


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name}/ beside the repository: real data are not part of it")
    return SHARED
