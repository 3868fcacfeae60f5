"""Batches read ahead: in order, bounded, all of them, and the error after them."""

from __future__ import annotations

import threading
import time

import pytest

from tallystream.errors import BrokerError
from tallystream.topics.prefetch import DEPTH, Prefetch


class Reader:
    """Gives the numbers 0…n-1 as batches; fails at `fail`; slow between being at its end and saying the last."""

    def __init__(self, n, fail=None, pause=0.0):
        self.n, self.fail, self.pause = n, fail, pause
        self.position = 0
        self.done = n == 0
        self.closed = False

    def read(self, stop_at=None):
        if self.position == self.fail:
            raise BrokerError("the log is gone")
        found = self.position
        self.position += 1
        self.done = self.position >= self.n
        time.sleep(self.pause)
        return found

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


@pytest.mark.parametrize("pause", [0.0, 0.003])
def test_every_batch_comes_in_order_before_a_lane_is_done(pause):
    prefetch = Prefetch()
    readers = [Reader(n, pause=pause) for n in (0, 1, 2, 50)]
    lanes = [prefetch.add(r, lambda position: None) for r in readers]
    assert [drain(lane) for lane in lanes] == [list(range(r.n)) for r in readers]
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
    assert drain(lane) == list(range(100))
    prefetch.remove(lane)


def test_what_was_read_comes_before_the_error():
    prefetch = Prefetch()
    lane = prefetch.add(Reader(5, fail=1), lambda position: None)
    wait_for(lambda: lane._error is not None)
    assert lane.take() == 0
    with pytest.raises(BrokerError, match="the log is gone"):
        lane.take()
    assert not lane.done
    prefetch.remove(lane)
