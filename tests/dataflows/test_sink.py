"""The sink commits the last events before a pause without waiting for the first ones after it."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from dataflows import sink
from tallystream.errors import WarehouseError


class SlowWriter:
    """Each commit waits until it is let go."""

    def __init__(self) -> None:
        self.commits: list[list[Any]] = []
        self.go = threading.Semaphore(0)
        self.fails = False

    def commit(self, deltas: list[Any], _now: Any) -> None:
        self.go.acquire()
        if self.fails:
            raise WarehouseError("the disk is full")
        self.commits.append(list(deltas))


def delta(first: int) -> Any:
    return SimpleNamespace(topic="orders", partition=0, first=first, next=first + 1, consumed=1, building=frozenset())


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch) -> sink.WarehousePartition:
    mirror = SimpleNamespace(send=lambda _: None, close=lambda: None)
    monkeypatch.setattr(sink, "OffsetMirror", lambda *_: mirror)
    return sink.WarehousePartition(
        SimpleNamespace(kafka={}, settings=SimpleNamespace(mirror_seconds=0.0)), SlowWriter()
    )  # type: ignore[arg-type]


def until(true: Any) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_ends_during_a_commit_is_committed_after_it_though_no_epoch_follows(partition: Any) -> None:
    writer = partition._writer
    partition.write_batch([[delta(0)]])
    partition.snapshot()
    for first in (1, 2):
        partition.write_batch([[delta(first)]])
        partition.snapshot()
    assert writer.commits == []
    writer.go.release(2)
    until(lambda: len(writer.commits) == 2)
    assert [[d.first for d in c] for c in writer.commits] == [[0], [1, 2]]
    partition.close()


def test_after_a_pause_it_commits_again(partition: Any) -> None:
    writer = partition._writer
    writer.go.release(9)
    for first in range(3):
        partition.write_batch([[delta(first)]])
        partition.snapshot()
        until(lambda first=first: len(writer.commits) == first + 1)
    partition.close()
    assert [d.first for c in writer.commits for d in c] == [0, 1, 2]


def test_a_failed_commit_is_raised_by_the_next_epoch_and_nothing_after_it_is_tried(partition: Any) -> None:
    writer = partition._writer
    writer.fails = True
    writer.go.release(9)
    partition.write_batch([[delta(0)]])
    partition.snapshot()
    until(lambda: not partition._running)
    partition.write_batch([[delta(1)]])
    with pytest.raises(WarehouseError, match="disk is full"):
        partition.snapshot()
    assert writer.commits == []


def test_a_flow_that_outruns_its_commits_waits_for_them(partition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what waits, and the memory of the process with it, would grow with the backlog."""
    monkeypatch.setattr(sink, "WAITING", 5)
    ended: list[int] = []

    def flow() -> None:
        for first in range(20):
            partition.write_batch([[delta(first)]])
            partition.snapshot()
            ended.append(first)

    running = threading.Thread(target=flow)
    running.start()
    # One in the commit, five behind it, and the sixth waits in its epoch.
    until(lambda: len(ended) == 6)
    time.sleep(0.2)
    assert len(ended) == 6
    partition._writer.go.release(99)
    running.join(60)
    assert not running.is_alive()
    partition.close()
    assert [d.first for c in partition._writer.commits for d in c] == list(range(20))
    assert max(len(c) for c in partition._writer.commits) <= 6
