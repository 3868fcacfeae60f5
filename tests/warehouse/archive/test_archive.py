"""The archive: every message once, by offsets, whatever kills it; and everything comes back out of it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from tallystream.errors import LogWentBackError, WarehouseError
from tallystream.topics.batch import RawBatch
from tallystream.topics.client import kafka_config
from tallystream.topics.decode import Decoder
from tallystream.topics.judge import Judge, Rules
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import FolderRegistry
from tallystream.warehouse import archive as module
from tallystream.warehouse import archive_merge
from tallystream.warehouse.archive import Archived, archive, pieces
from tallystream.warehouse.archive_index import load
from tallystream.warehouse.archive_merge import merge_archive
from tallystream.warehouse.archive_read import FullHistory, archive_scan, archived, attach_archive
from tests.warehouse.archive.conftest import BASE, N, click, kept, spans, upto, wanted

pytest_plugins = ["tests.store.fixtures"]


def test_everything_is_in_it_once(here):
    settings, store = here
    done = archive(settings, store, upto(N))
    assert done.messages == N
    assert done.lost == []
    assert kept(store) == wanted(N)
    assert archive(settings, store, upto(N)) == Archived()


def test_it_never_goes_beyond_what_was_committed(here):
    settings, store = here
    for until in (0, 1, 250, 250, 251, N):
        archive(settings, store, upto(until))
        if until:
            assert archived(store, "clicks") == {0: (0, until)}
            assert kept(store) == wanted(until)


def test_files_are_named_by_offsets_and_hold_one_hour(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(N))
    index = load(store, "clicks", 0)
    assert index.spans[0].events.path == f"archive/clicks/0/{0:020d}-{index.spans[0].next:020d}.parquet"
    hours = [s.hour for s in index.spans]
    assert hours == sorted(set(hours))
    assert len(hours) == 4
    assert hours[0] == int(BASE.timestamp()) // 3600
    first = index.spans[0]
    assert (first.rows + first.dead_rows, first.schema_ids) == (first.next, (2,))
    assert first.min_event_time == int(BASE.timestamp()) * 10**6
    assert sum(s.dead_rows for s in index.spans) == sum(1 for _, name in wanted(N) if name is None)


def test_dead_letters_are_kept_raw(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(100))
    batches = list(archive_scan(store, "clicks", 0, 0, 100))
    rows = [row for b in batches for row in b.dead.to_pylist()]
    assert [(r["offset"], r["reason"], r["value"]) for r in rows] == [
        (3, "null_value", None), (7, "not_avro_or_json", b"garbage"), (57, "not_avro_or_json", b"garbage"), (73, "null_value", None),
    ]  # fmt: skip


def test_a_batch_comes_back_as_the_judge_takes_it(on_disk):
    """Judged from the archive as from the log: verdicts, memory and times are the same."""
    settings, store = on_disk
    archive(settings, store, upto(N))
    reader = PartitionReader(kafka_config(settings), "clicks", 0, 0, N)
    decoder, rules = Decoder("clicks", FolderRegistry()), Rules(10**6, 10**6, 0)
    live, replay = Judge("clicks", 0, rules), Judge("clicks", 0, rules)
    told: dict[str, list] = {"log": [], "archive": []}
    while not reader.done:
        batch = reader.read()
        if batch is not None:
            told["log"].append(live.judge(decoder.decode(batch)))
    reader.close()
    for at in range(0, N, 100):
        told["archive"] += [replay.judge(b) for b in archive_scan(store, "clicks", 0, at, at + 100)]
    sums = {
        where: (
            [r for b in judged for r in b.applied.to_pylist()],
            [{**r, "value": None} for b in judged for r in b.late.to_pylist()],
            [{**r, "value": None} for b in judged for r in b.dead.to_pylist()],
            sum(b.duplicate for b in judged),
            judged[-1].max_event_time,
        )
        for where, judged in told.items()
    }
    assert sums["log"] == sums["archive"]
    assert len(sums["log"][1]) == 0 and len(sums["log"][2]) > 20


def test_a_range_that_is_not_there_is_told(on_disk):
    settings, store = on_disk
    with pytest.raises(WarehouseError, match=r"has nothing of clicks/0, not offsets \[0, 5\); run `tally archive`"):
        list(archive_scan(store, "clicks", 0, 0, 5))
    archive(settings, store, upto(100))
    with pytest.raises(WarehouseError, match=r"has \[0, 100\) of clicks/0, not offsets \[50, 101\)"):
        list(archive_scan(store, "clicks", 0, 50, 101))
    assert list(archive_scan(store, "clicks", 0, 50, 50)) == []
    assert sum(len(b.raw.values) for b in archive_scan(store, "clicks", 0, 50, 61)) == 11


def test_a_changed_file_is_found(here):
    settings, store = here
    archive(settings, store, upto(N))
    piece = load(store, "clicks", 0).spans[1].events
    data = bytearray(store.get(piece.path))
    data[len(data) // 2] ^= 1
    store.put(piece.path, bytes(data))
    with pytest.raises(WarehouseError, match=f"{piece.path} was changed after it was written"):
        kept(store)


def test_a_damaged_or_missing_index_stops_everything(on_disk, monkeypatch):
    settings, store = on_disk
    monkeypatch.setattr(module, "ROWS", 1)
    for until in range(10, 120, 10):
        archive(settings, store, upto(until))
    indexes = [e.path for e in store.list("archive/clicks/0") if "index-" in e.path]
    assert len(indexes) <= 3
    good = store.get(indexes[-1])
    for data in (b"", good[: len(good) // 2], good.replace(b'"first": 0', b'"first": 1')):
        store.put(indexes[-1], data)
        with pytest.raises(WarehouseError, match="is damaged; nothing was changed"):
            archive(settings, store, upto(200))
    store.delete(indexes)
    before = store.list("archive")
    with pytest.raises(WarehouseError, match="files and no index"):
        archive(settings, store, upto(200))
    assert store.list("archive") == before


def test_what_retention_took_is_a_hole_that_says_so(on_disk, monkeypatch):
    settings, store = on_disk
    archive(settings, store, upto(100))
    real = module.topic_logs
    monkeypatch.setattr(
        module, "topic_logs", lambda s, t: {"clicks": (None, {0: (150, real(s, t)["clicks"][1][0][1])})}
    )
    assert archive(settings, store, upto(200)).lost == [("clicks", 0, 100, 150)]
    assert (100, 150) in spans(store)
    with pytest.raises(WarehouseError, match=r"retention removed offsets \[100, 150\) before they were archived"):
        kept(store)
    assert sum(len(b.raw.values) for b in archive_scan(store, "clicks", 0, 150, 200)) == 50
    merge_archive(settings, store)
    assert (100, 150) in spans(store)


def test_a_topic_made_anew_is_not_mixed_in(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(10, "one"))
    with pytest.raises(LogWentBackError, match=r"is of another topic \(id one, now two\)"):
        archive(settings, store, upto(20, "two"))
    archive(settings, store, upto(20, None))
    assert archived(store, "clicks") == {0: (0, 20)}


def raw(stamps):
    n = len(stamps)
    return RawBatch(
        "clicks", 0, 0, n + 3, np.arange(n), np.array(stamps, np.int64), [b"k"] * n, [click(i) for i in range(n)]
    )


def test_hours_are_one_stretch_whatever_the_timestamps():
    hour = 3_600_000
    decoded = Decoder("clicks", FolderRegistry()).decode(raw([0, hour, -1, hour - 1, 3 * hour, 99 * hour, 2 * hour]))
    cut = list(pieces(decoded, 0, 50))
    assert [(a, b, h) for a, b, h, _ in cut] == [(0, 1, 0), (1, 4, 1), (4, 10, 3)]
    assert [p.events.num_rows for *_, p in cut] == [1, 3, 3]
    assert [p.rows.tolist() for *_, p in cut] == [[0], [0, 1, 2], [0, 1, 2]]


def test_sql_over_it(on_disk):
    settings, store = on_disk
    con = duckdb.connect()
    attach_archive(con, store)
    assert con.execute("SELECT count(*) FROM archive.clicks").fetchone() == (0,)
    archive(settings, store, upto(N))
    attach_archive(con, store)
    con.execute(f"SET allowed_directories = ['{store.root}/']")
    con.execute("SET enable_external_access = false")
    found = con.execute(
        'SELECT count(*), min("offset"), max(price_cents), count(DISTINCT event_id) FROM archive.clicks'
    ).fetchone()
    good = [i for i, name in wanted(N) if name]
    assert found == (len(good), 0, max(good), len(good))
    assert con.execute("SELECT count(*) FROM archive.dead_letters WHERE value = 'garbage'").fetchone() == (14,)
    assert con.execute("SELECT count(*) FROM archive.orders").fetchone() == (0,)
    assert con.execute("SELECT column_name FROM (DESCRIBE archive.orders) LIMIT 6").fetchall()[5] == ("event_id",)


def test_ids_of_long_ago_come_from_archive_and_log(on_disk, monkeypatch):
    settings, store = on_disk
    archive(settings, store, upto(200))
    history = FullHistory(settings, store)
    monkeypatch.setattr(history._log, "begins", lambda topic, partition: 150)
    assert history.begins("clicks", 0) == 0
    found = {o for offsets, _ in history.ids("clicks", 0, 300) for o in offsets.tolist()}
    assert found == {i for i, name in wanted(300) if name}
    monkeypatch.setattr(history._log, "begins", lambda topic, partition: 201)
    assert history.begins("clicks", 0) == 201


def test_nothing_is_left_under_home(on_disk):
    settings, store = on_disk
    archive(settings, store, upto(N))
    assert not Path(settings.root / "archiving").exists()
    assert archive_merge.ROWS == 500_000
