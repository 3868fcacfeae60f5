"""The writer while readers ask for too much."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import duckdb
import pytest

from tallystream.errors import QueryError, WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse import extensions, writer
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.read import open_reader
from tests.oracle.books import compare
from tests.warehouse.stream import NOW, Stream
from tests.warehouse.test_exactly_once import HORIZON, LATENESS, books, simple_logs

# Holds its rows in memory until it fails: an ORDER BY would spill to the disk, and take minutes to fill it.
GREEDY = "SELECT len(list(x)) FROM range(2000000000) t(x)"


@pytest.fixture
def stream(tmp_path):
    made = Stream(tmp_path, simple_logs(), LATENESS, HORIZON)
    made.start()
    deltas = [made.read("clicks", 0, 5) for _ in range(4)]
    made.con.close()
    made.deltas = deltas
    return made


def opened(stream):
    made = writer.Writer(Settings(home=stream.settings.home, lateness=LATENESS, dedup_horizon=HORIZON), stream.plans)
    made.open()
    return made


def test_a_commit_without_memory_is_tried_again_and_counts_once(stream, monkeypatch):
    monkeypatch.setattr(writer, "MEMORY_PAUSES", (0.0, 0.0, 0.0))
    merge, fails = Committer._merge, [True, True, False]

    def starved(self, deltas):
        merge(self, deltas)
        if fails.pop(0):
            raise duckdb.OutOfMemoryException("failed to allocate")

    monkeypatch.setattr(Committer, "_merge", starved)
    made = opened(stream)
    made.commit(stream.deltas, NOW)
    assert fails == []
    made.close()
    stream.start()
    compare(stream.con, books(stream.logs))


def test_a_commit_that_finds_no_memory_to_begin_with_is_tried_again_too(stream, monkeypatch):
    monkeypatch.setattr(writer, "MEMORY_PAUSES", (0.0, 0.0))
    shown, fails = Committer._shown, [1, 2]

    def starved(self, name, rows):
        if fails:
            fails.pop()
            raise duckdb.OutOfMemoryException("failed to allocate")
        return shown(self, name, rows)

    monkeypatch.setattr(Committer, "_shown", starved)
    made = opened(stream)
    made.commit(stream.deltas, NOW)
    made.close()
    stream.start()
    compare(stream.con, books(stream.logs))


def test_a_commit_that_never_finds_memory_is_told_and_nothing_of_it_counts(stream, monkeypatch):
    monkeypatch.setattr(writer, "MEMORY_PAUSES", (0.0,))

    def starved(self, deltas):
        raise duckdb.OutOfMemoryException("failed to allocate")

    monkeypatch.setattr(Committer, "_merge", starved)
    made = opened(stream)
    with pytest.raises(WarehouseError, match="rolled back, nothing of it counts"):
        made.commit(stream.deltas, NOW)
    made.close()
    stream.start()
    assert stream.con.execute("SELECT sum(consumed) FROM ledger.offsets").fetchone() == (0,)


def test_a_query_that_wants_all_memory_fails_alone(stream, monkeypatch):
    monkeypatch.setattr(extensions, "memory_limit", lambda con: "150 MB")
    made, failed = opened(stream), []

    def read() -> None:
        with open_reader(made._settings) as reader:
            for _ in range(3):
                try:
                    reader.rows(GREEDY)
                except Exception as error:
                    failed.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    for delta in stream.deltas:
        made.commit([delta], NOW)
    thread.join()
    with open_reader(made._settings) as reader:
        assert reader.rows("SELECT sum(consumed)::BIGINT FROM ledger.offsets")[2] == [(20,)]
    made.close()
    assert len(failed) == 3 and all("memory" in f.lower() for f in failed)
    stream.start()
    compare(stream.con, books(stream.logs))


def test_a_query_that_wants_all_of_the_disk_fails_alone(stream, monkeypatch):
    monkeypatch.setattr(extensions, "memory_limit", lambda con: "150 MB")
    monkeypatch.setattr(extensions, "spill_limit", lambda folder: "50 MB")
    made = opened(stream)
    with open_reader(made._settings) as reader, pytest.raises(QueryError, match="max_temp_directory_size"):
        reader.rows("SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY hash(x)) AS n FROM range(30000000) t(x))")
    for delta in stream.deltas:
        made.commit([delta], NOW)
    made.close()
    stream.start()
    compare(stream.con, books(stream.logs))


def test_queries_may_spill_half_of_what_the_disk_has_left(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert 0.4 * free < int(extensions.spill_limit(tmp_path).removesuffix(" bytes")) <= 0.6 * free
    with extensions.open_writer_connection(tmp_path / "tally.duckdb", []) as con:
        told = con.execute(
            "SELECT current_setting('temp_directory'), current_setting('max_temp_directory_size')"
        ).fetchone()
    assert Path(told[0]).parent == tmp_path
    assert told[1] != "90% of available disk space"
