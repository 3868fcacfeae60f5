"""The files of the archive: killed between any two of them, merged, read while they are merged."""

from __future__ import annotations

import fcntl

import pytest

from tallystream.errors import WarehouseError
from tallystream.store.objects import MissingError
from tallystream.warehouse.archive import archive
from tallystream.warehouse.archive_index import Span, commit, load, piece_path
from tallystream.warehouse.archive_merge import merge_archive
from tallystream.warehouse.archive_read import archive_scan, archived
from tests.store.kill import killed_at
from tests.warehouse.archive.conftest import N, kept, spans, upto, wanted

pytest_plugins = ["tests.store.fixtures"]


ARCHIVE = """
import sys
from tallystream.settings import load
from tallystream.store.objects import open_store
from tallystream.warehouse import archive as module, archive_merge
s = load()
module.AHEAD, module.ROWS = 2, 1
if sys.argv[1] == "archive":
    module.archive(s, open_store(s), [module.Target("clicks", 0, 700, None)])
else:
    archive_merge.merge_archive(s, open_store(s))
"""
FAILPOINTS = [
    "archive.after_read", "archive.after_file", "archive.after_file:4", "archive.before_index:2", "archive.after_index",
]  # fmt: skip
MERGE = ["archive.after_merge_file:2", "archive.before_merge_index", "archive.after_merge_index"]


def files(store):
    return {e.path for e in store.list("archive") if e.path.endswith(".parquet")}


def named(store):
    return {p.path for s in load(store, "clicks", 0).spans for p in s.pieces}


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_anywhere_it_goes_on_without_gap_or_overlap(failpoint, on_disk):
    settings, store = on_disk
    archive(settings, store, upto(30))
    assert killed_at(failpoint, ARCHIVE, "archive") == -9
    before = archived(store, "clicks")[0][1]
    assert kept(store) == wanted(before)
    archive(settings, store, upto(N))
    assert kept(store) == wanted(N)
    archive(settings, store, upto(N))
    assert files(store) == named(store)


def piecemeal(settings, store):
    for until in range(20, N, 20):
        archive(settings, store, upto(until))
    archive(settings, store, upto(N))


def test_small_files_are_merged_and_the_old_ones_go(here):
    settings, store = here
    piecemeal(settings, store)
    before = len(spans(store))
    done = merge_archive(settings, store)
    assert before > 25
    assert len(spans(store)) == 4 == len({s.hour for s in load(store, "clicks", 0).spans})
    assert done.files_after < done.files_before
    assert done.bytes_after < done.bytes_before
    assert kept(store) == wanted(N)
    assert files(store) == named(store)
    again = merge_archive(settings, store)
    assert again.files_before == again.files_after == done.files_after


def test_the_hour_being_written_is_left_until_it_has_many(on_disk):
    settings, store = on_disk
    for until in (10, 20, 30):
        archive(settings, store, upto(until))
    merge_archive(settings, store)
    assert spans(store) == [(0, 10), (10, 20), (20, 30)]
    for until in range(40, 81, 10):
        archive(settings, store, upto(until))
    merge_archive(settings, store)
    assert spans(store) == [(0, 80)]


@pytest.mark.parametrize("failpoint", MERGE)
def test_a_merge_killed_anywhere_loses_nothing(failpoint, on_disk):
    settings, store = on_disk
    piecemeal(settings, store)
    assert killed_at(failpoint, ARCHIVE.replace("2, 1", "8, 500_000"), "merge") == -9
    assert kept(store) == wanted(N)
    merge_archive(settings, store)
    assert kept(store) == wanted(N)
    assert len(spans(store)) == 4
    assert files(store) == named(store)


def test_a_reader_goes_on_when_files_are_merged_under_it(on_disk):
    settings, store = on_disk
    piecemeal(settings, store)
    reading = archive_scan(store, "clicks", 0, 0, N)
    found = [next(reading), next(reading)]
    merge_archive(settings, store)
    found += reading
    assert [o for b in found for o in b.raw.offsets.tolist()] == list(range(N))


def test_a_file_that_is_gone_is_told_and_not_waited_for(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(10))
    store.delete([piece_path("clicks", 0, 0, 10, dead=False)])
    with pytest.raises(MissingError):
        kept(store)


def test_two_at_a_time_are_refused(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(10))
    with (settings.run_dir / "archive.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for work in (lambda: archive(settings, store, upto(20)), lambda: merge_archive(settings, store)):
            with pytest.raises(WarehouseError, match="another `tally archive` is at work here"):
                work()
    index = load(store, "clicks", 0)
    following = index.with_spans([*index.spans, Span(10, 20, index.spans[-1].hour, lost=True)])
    commit(store, following)
    with pytest.raises(WarehouseError, match="another `tally archive` is at work on clicks/0"):
        commit(store, following)


def test_an_index_with_a_gap_is_never_written(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(10))
    index = load(store, "clicks", 0)
    with pytest.raises(WarehouseError, match="a file ends at 10, the next begins at 11"):
        index.with_spans([*index.spans, Span(11, 20, 0)])
