"""Snapshots: one committed state, a manifest last, and no trace of the ones that were cut short."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timedelta

import duckdb
import pytest

from tallystream.errors import UsageError, WarehouseError
from tallystream.settings import Settings
from tallystream.store.objects import StoreError, open_store
from tallystream.warehouse.manifest import MANIFEST, SealedError, catalog, decode, expire, path_of
from tallystream.warehouse.restore import restore
from tallystream.warehouse.snapshot import snapshot
from tests.store.kill import killed_at
from tests.warehouse.filled import NOW, add, contents, fill, plans

pytest_plugins = ["tests.store.fixtures"]

SNAPSHOT = """
import duckdb
from tallystream.settings import load
from tallystream.store.objects import open_store
from tallystream.warehouse.snapshot import snapshot
s = load()
snapshot(duckdb.connect(str(s.warehouse), read_only=True), s, open_store(s))
"""
FAILPOINTS = [
    "snapshot.after_export", "snapshot.after_file", "snapshot.after_file:9",
    "snapshot.before_manifest", "snapshot.after_manifest",
]  # fmt: skip


def test_it_says_what_it_holds(store, home):
    settings = Settings()
    con = fill(settings.warehouse)
    name = snapshot(con, settings, store, datetime(2026, 3, 1, 12, 0, 0, 5))
    assert name.startswith("20260301T120000.000005Z-")
    (found,) = catalog(store, None)
    assert found.good
    manifest = found.manifest
    assert manifest.name == name
    assert manifest.taken_at == "2026-03-01T12:00:00.000005Z"
    assert manifest.offsets[2]["next_offset"] == 300
    assert manifest.last_commit["id"] == 3
    assert manifest.topics == {"orders": "abc", "clicks": None}
    assert {v["name"] for v in manifest.views} == set(plans())
    assert {t.name: t.rows for t in manifest.tables}["late_events"] == 2
    stored = {e.path: e.size for e in store.list(f"snapshots/{name}")}
    assert stored.pop(path_of(name, MANIFEST))
    assert stored == {path_of(name, f.path): f.size for f in manifest.files}
    assert list((settings.root / "export").iterdir()) == []


def test_no_path_of_this_machine_is_in_it(folder_store, home):
    settings = Settings()
    name = snapshot(fill(settings.warehouse), settings, folder_store)
    assert str(home).encode() not in folder_store.get(path_of(name, "load.sql"))


def test_names_sort_by_time_and_never_meet(folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    names = [snapshot(con, settings, folder_store, NOW) for _ in range(2)]
    names.append(snapshot(con, settings, folder_store, NOW + timedelta(microseconds=1)))
    assert len(set(names)) == 3
    assert max(names) == names[2]


def test_a_writer_that_commits_meanwhile_is_seen_wholly_or_not(folder_store, home, tmp_path, monkeypatch):
    """Offsets and rows of one commit: a snapshot that tore them apart would count events twice after a restore."""
    settings = Settings()
    con = fill(settings.warehouse, 30)
    stop, commits = threading.Event(), [3]

    def write():
        cursor = con.cursor()
        while not stop.is_set():
            add(cursor, 10, commits[0])
            commits[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        names = [snapshot(con, settings, folder_store) for _ in range(4)]
    finally:
        stop.set()
        writer.join()
    assert commits[0] > 5
    seen = set()
    for i, name in enumerate(names):
        other = Settings(home=tmp_path / f"restored{i}")
        restore(other, folder_store, name)
        back = duckdb.connect(str(other.warehouse))
        rows = back.execute("SELECT count(*) FROM revenue_per_minute").fetchone()
        told = back.execute("SELECT next_offset FROM ledger.offsets WHERE topic = 'orders'").fetchone()
        kept = back.execute("SELECT sum(consumed) FROM ledger.commits").fetchone()
        assert rows == told == kept
        seen.add(rows)
        back.close()
    assert len(seen) > 1


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_anywhere_it_leaves_a_whole_snapshot_or_none(failpoint, folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse)
    before = contents(con)
    first = snapshot(con, settings, folder_store)
    con.close()
    assert killed_at(failpoint, SNAPSHOT) == -9
    good = [f.name for f in catalog(folder_store, None) if f.good]
    assert len(good) == (2 if failpoint == "snapshot.after_manifest" else 1)
    assert list((settings.root / "export").iterdir())
    con = duckdb.connect(str(settings.warehouse))
    assert contents(con) == before
    name = snapshot(con, settings, folder_store)
    assert list((settings.root / "export").iterdir()) == []
    assert [f.name for f in catalog(folder_store, None) if f.good] == [*good, name]
    assert first in good


def test_two_at_a_time_are_refused(folder_store, home, monkeypatch):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    taken = []

    def again(*arguments, **options):
        with pytest.raises(WarehouseError, match="another snapshot is being taken"):
            snapshot(con, settings, open_store(settings))
        taken.append(arguments)

    monkeypatch.setattr(type(folder_store), "put", again)
    snapshot(con, settings, folder_store)
    assert taken


def test_a_store_that_fails_leaves_no_snapshot_and_no_scratch(folder_store, home, monkeypatch):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    real, puts = type(folder_store).put, []

    def full(self, path, data, **options):
        puts.append(path)
        if len(puts) > 4:
            raise StoreError("the disk is full")
        real(self, path, data, **options)

    monkeypatch.setattr(type(folder_store), "put", full)
    with pytest.raises(StoreError, match="the disk is full"):
        snapshot(con, settings, folder_store)
    (found,) = catalog(folder_store, None)
    assert "half-written: it has no manifest" in str(found.problem)
    assert list((settings.root / "export").iterdir()) == []


def test_sealed_it_shows_nothing(folder_store, home, monkeypatch):
    pytest.importorskip("cryptography")
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    settings = Settings()
    name = snapshot(fill(settings.warehouse), settings, folder_store)
    for entry in folder_store.list(f"snapshots/{name}"):
        if not entry.path.endswith(MANIFEST):
            data = folder_store.get(entry.path)
            assert data.startswith(b"TALLY\0\0\1")
            assert b"PAR1" not in data
            assert b"CREATE" not in data
    with pytest.raises(SealedError, match=r"is sealed with key .* TALLY_SNAPSHOT_KEY is not set"):
        decode(name, folder_store.get(path_of(name, MANIFEST)), None)


def test_a_manifest_rewritten_without_the_key_is_found(folder_store, home, monkeypatch):
    """A checksum alone would be made anew by whoever changes the manifest; a signature needs the key."""
    pytest.importorskip("cryptography")
    from tallystream.store.seal import Key

    key = Key(b"\xab" * 32)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    settings = Settings()
    name = snapshot(fill(settings.warehouse, 3), settings, folder_store)
    manifest = decode(name, folder_store.get(path_of(name, MANIFEST)), key)
    body = json.loads(manifest.encode(None))
    folder_store.put(path_of(name, MANIFEST), json.dumps(body).encode())
    (found,) = catalog(folder_store, key)
    assert "was changed after it was written" in str(found.problem)


def taken(con, settings, store, days):
    return [snapshot(con, settings, store, NOW - timedelta(days=d)) for d in days]


def test_old_snapshots_expire_and_the_newest_good_one_never(store, home):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    names = taken(con, settings, store, [30, 20, 10, 2, 1])
    assert expire(store, 1, 60, NOW) == []
    assert expire(store, 2, 5, NOW) == names[:3]
    assert [f.name for f in catalog(store, None)] == names[3:]
    assert expire(store, 1, 0, NOW + timedelta(days=1000)) == names[3:4]
    assert expire(store, 1, 0, NOW + timedelta(days=1000)) == []
    (left,) = catalog(store, None)
    assert left.good


def test_damaged_ones_do_not_count_as_kept_and_stay_while_they_are_the_newest(folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    old, good, torn, newest = taken(con, settings, folder_store, [40, 30, 20, 10])
    for name in (torn, newest):
        folder_store.delete([path_of(name, MANIFEST)])
    assert expire(folder_store, 1, 0, NOW) == [old]
    assert [f.name for f in catalog(folder_store, None)] == [good, torn, newest]
    later = snapshot(con, settings, folder_store, NOW)
    assert expire(folder_store, 1, 0, NOW + timedelta(days=1)) == [good, torn, newest]
    assert [f.name for f in catalog(folder_store, None)] == [later]


def test_with_no_good_one_nothing_expires(folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    (name,) = taken(con, settings, folder_store, [40])
    folder_store.delete([path_of(name, MANIFEST)])
    assert expire(folder_store, 1, 0, NOW) == []
    with pytest.raises(UsageError, match="keep at least 1 snapshot"):
        expire(folder_store, 0, 0, NOW)


def test_sealed_ones_count_as_good_without_their_key(folder_store, home, monkeypatch):
    pytest.importorskip("cryptography")
    settings = Settings()
    con = fill(settings.warehouse, 3)
    (plain,) = taken(con, settings, folder_store, [40])
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", os.urandom(32).hex())
    (sealed,) = taken(con, settings, folder_store, [30])
    assert expire(folder_store, 1, 0, NOW) == [plain]
    assert [f.name for f in catalog(folder_store, None)] == [sealed]
