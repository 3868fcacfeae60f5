"""Batches read ahead: in order, bounded, all of them, and the error after them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tallystream.errors import BrokerError
from tallystream.topics.batch import RawBatch
from tallystream.topics.prefetch import DEPTH, GROWS_TO, GROWS_TO_BYTES, Prefetch


class Reader:
    """Gives n batches of `size` messages; fails at batch `fail`; slow between being at its end and saying the last."""

    def __init__(self, n, fail=None, pause=0.0, size=GROWS_TO, value=b""):
        self.n, self.fail, self.pause, self.size, self.value = n, fail, pause, size, value
        self.position = 0
        self.done = n == 0
        self.closed = False

    def read(self, stop_at=None):
        if self.position == self.fail:
            raise BrokerError("the log is gone")
        first = self.position * self.size
        self.position += 1
        self.done = self.position >= self.n
        time.sleep(self.pause)
        offsets = np.arange(first, first + self.size)
        each = [self.value] * self.size
        return RawBatch("orders", 0, first, first + self.size, offsets, offsets, each, each)

    def close(self):
        self.closed = True


def wait_for(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def drain(lane):
    seen = []
    deadline = time.monotonic() + 60
    while not lane.done:
        assert time.monotonic() < deadline, seen
        batch = lane.take()
        if batch is not None:
            seen.append(batch)
    return seen


def check(batches, n, size):
    """They are all messages from the first to the last, end to end."""
    assert [b.first for b in batches[1:]] == [b.next for b in batches[:-1]]
    assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(n * size)) if batches else n == 0
    assert all(len(b.values) == len(b.keys) == len(b.timestamps) == b.next - b.first for b in batches)


@pytest.mark.parametrize("pause", [0.0, 0.003])
def test_every_batch_comes_in_order_before_a_lane_is_done(pause):
    prefetch = Prefetch()
    readers = [Reader(n, pause=pause) for n in (0, 1, 2, 50)]
    lanes = [prefetch.add(r, lambda position: None) for r in readers]
    for lane, reader in zip(lanes, readers, strict=True):
        batches = drain(lane)
        assert len(batches) == reader.n
        check(batches, reader.n, reader.size)
    for lane in lanes:
        prefetch.remove(lane)
    assert all(r.closed for r in readers)
    assert not [t for t in threading.enumerate() if t.name == "tally-read"]


def test_no_more_is_read_ahead_than_is_said():
    prefetch = Prefetch()
    reader = Reader(100)
    lane = prefetch.add(reader, lambda position: None)
    wait_for(lambda: reader.position == DEPTH)
    time.sleep(0.1)
    assert reader.position == DEPTH
    check(drain(lane), 100, reader.size)
    prefetch.remove(lane)


def test_what_was_read_comes_before_the_error():
    prefetch = Prefetch()
    lane = prefetch.add(Reader(5, fail=1), lambda position: None)
    wait_for(lambda: lane._error is not None)
    assert lane.take().first == 0
    with pytest.raises(BrokerError, match="the log is gone"):
        lane.take()
    assert not lane.done
    prefetch.remove(lane)


@pytest.mark.parametrize(
    ("size", "value", "most"),
    [(10, b"", GROWS_TO + 10), (2, bytes(GROWS_TO_BYTES // 8), 10)],
    ids=["messages", "bytes"],
)
def test_small_batches_that_wait_become_one(size, value, most):
    prefetch = Prefetch()
    reader = Reader(200, size=size, value=value)
    lane = prefetch.add(reader, lambda position: None)
    # What waits grows, and the reading ends when it is large enough, or at the end.
    wait_for(lambda: reader.done or (reader.position > 2 and not lane._room))
    batches = drain(lane)
    check(batches, 200, size)
    assert len(batches) < 200
    assert max(len(b.values) for b in batches) <= most
    prefetch.remove(lane)


def test_small_batches_are_not_joined_where_rules_change():
    prefetch = Prefetch()
    reader = Reader(20, size=3)
    lane = prefetch.add(reader, lambda position: 30 if position < 30 else None)
    wait_for(lambda: len(lane._ready) == DEPTH)
    batches = drain(lane)
    check(batches, 20, 3)
    assert [b.first for b in batches if b.first <= 30] == list(range(0, 33, 3))
    prefetch.remove(lane)


def test_joined_while_they_are_taken_nothing_is_lost():
    prefetch = Prefetch()
    readers = [Reader(300, size=1) for _ in range(3)]
    lanes = [prefetch.add(r, lambda position: None) for r in readers]
    seen = [[] for _ in lanes]
    deadline = time.monotonic() + 60
    while not all(lane.done for lane in lanes):
        assert time.monotonic() < deadline
        for lane, batches in zip(lanes, seen, strict=True):
            if (batch := lane.take()) is not None:
                batches.append(batch)
    for batches in seen:
        check(batches, 300, 1)
    for lane in lanes:
        prefetch.remove(lane)
