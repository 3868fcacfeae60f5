"""A reader at rest holds the file for a moment: who writes waits for it, says so, and gives up with its name."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time

import duckdb
import pytest

from tallystream.errors import WarehouseError
from tallystream.settings import load
from tallystream.warehouse import held
from tallystream.warehouse.control import open_prepared, run_lock
from tests.recovery.shop import Shop, publish

pytestmark = pytest.mark.embedded
# Holds the file until it is told to let go, and takes it again half a second later, when it can.
READER = """
import sys, time, duckdb
while True:
    try:
        con = duckdb.connect(sys.argv[1], read_only=True)
    except duckdb.IOException:
        time.sleep(0.005)
        continue
    print("held", flush=True)
    if not sys.stdin.readline():
        break
    con.close()
    time.sleep(0.5)
"""


class Reader:
    """Another process that reads the file at rest, as `tally sql` and Dagster's sensors do."""

    def __init__(self, path):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", READER, str(path)], **pipes)
        assert self.process.stdout.readline() == "held\n"

    def let_go(self):
        print(file=self.process.stdin, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "tallystream.cli", *arguments], stderr=subprocess.PIPE, text=True)


def tally(*arguments):
    return subprocess.run([sys.executable, "-m", "tallystream.cli", *arguments], capture_output=True, text=True)


@pytest.fixture
def warehouse(fresh_topics):
    """A warehouse at rest, and a log that has more than it."""
    settings = fresh_topics(1)
    publish(settings, Shop(7), 50)
    assert tally("run", "--until-end").returncode == 0
    publish(settings, Shop(8), 50)
    return settings


def test_a_run_waits_for_a_reader_both_times(warehouse):
    """The supervisor opens the file to prepare it, the writer to keep it; a reader has it before each of them."""
    told = f"waiting up to 10 s for {warehouse.warehouse}: it is held by `{sys.executable}"
    with Reader(warehouse.warehouse) as reader:
        run = start("run", "--until-end")
        for _ in range(2):
            # Between the two it tells what it has to do.
            line = next(line for line in run.stderr if not line.startswith("tallying"))
            assert line.startswith(told) and f"(pid {reader.process.pid})" in line
            reader.let_go()
        assert (run.wait(60), run.stderr.read()) == (0, "")
    with duckdb.connect(str(warehouse.warehouse), read_only=True) as con:
        assert con.execute("SELECT sum(consumed) > 90 FROM ledger.offsets").fetchone() == (True,)


@pytest.fixture
def empty(home):
    """A warehouse at rest without a log: enough for whoever only opens it."""
    settings = load()
    settings.run_dir.mkdir(parents=True)
    with open_prepared(settings):
        return settings


def test_commands_at_rest_wait_for_readers_and_for_each_other(empty):
    with Reader(empty.warehouse) as reader:
        compact = start("compact")
        assert compact.stderr.readline().startswith("waiting up to 10 s for")
        reader.let_go()
        assert compact.wait(60) == 0
    with run_lock(empty):
        snapshot = start("snapshot")
        assert snapshot.stderr.readline().startswith(f"waiting up to 10 s for {empty.root}: taken by `")
        # Longer than one waits beside a stream, which will not go away.
        time.sleep(3.5)
    assert snapshot.wait(60) == 0


def test_who_does_not_let_go_is_named(empty, monkeypatch):
    monkeypatch.setattr(held, "WAIT", 0.8)
    with Reader(empty.warehouse) as reader:
        told = rf"is held by `.*\(pid {reader.process.pid}\), .*nothing was changed: end that"
        with pytest.raises(WarehouseError, match=told), open_prepared(empty):
            pass
    monkeypatch.setattr("tallystream.warehouse.control.WAIT", 0.8)
    with (empty.run_dir / "run.lock").open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(WarehouseError, match=r"is taken by .*run this again when that is done"), run_lock(empty):
            pass
