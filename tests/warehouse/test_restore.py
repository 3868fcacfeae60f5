"""Restore: all of it or nothing; damage is found before anything is in place."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta

import duckdb
import pytest

from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.store.objects import MissingError, open_store
from tallystream.warehouse.manifest import MANIFEST, DamagedError, SealedError, catalog, path_of
from tallystream.warehouse.restore import restore
from tallystream.warehouse.snapshot import snapshot
from tests.store.kill import killed_at
from tests.warehouse.filled import NOW, add, contents, fill

pytest_plugins = ["tests.store.fixtures"]

RESTORE = """
from tallystream.settings import load
from tallystream.store.objects import MissingError, open_store
from tallystream.warehouse.restore import restore
s = load()
restore(s, open_store(s))
"""
FAILPOINTS = [
    "restore.after_file", "restore.after_file:7", "restore.after_fetch", "restore.after_schema",
    "restore.after_build", "restore.after_rename",
]  # fmt: skip


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """Two snapshots a day apart: their objects, and what each holds."""
    settings = Settings(home=tmp_path_factory.mktemp("taken"), object_store=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TALLY_SNAPSHOT_KEY", raising=False)
        store = open_store(settings)
        con = fill(settings.warehouse)
        held = []
        for day in range(2):
            held.append((snapshot(con, settings, store, NOW + timedelta(days=day)), contents(con)))
            add(con, 10, 3 + day)
        con.close()
    return {entry.path: store.get(entry.path) for entry in store.list("")}, held


@pytest.fixture
def two(store, taken):
    """Both snapshots in an empty home's store."""
    objects, held = taken
    for path, data in objects.items():
        store.put(path, data)
    return held


def back(settings):
    with duckdb.connect(str(settings.warehouse)) as con:
        return contents(con)


def test_everything_comes_back(two, store):
    restored = restore(Settings(), store)
    assert restored.manifest.name == two[1][0]
    assert restored.passed_over == []
    assert back(Settings()) == two[1][1]
    assert not (Settings().root / "restore").exists()
    assert not Settings().warehouse.with_name("tally.duckdb.wal").exists()


def test_the_restored_file_takes_commits(two, store):
    restore(Settings(), store)
    with duckdb.connect(str(Settings().warehouse)) as con:
        add(con, 10, 99)
        with pytest.raises(duckdb.ConstraintException):
            add(con, 10, 99)


def test_by_name_and_by_time(two, store):
    (first, held), (second, _) = two
    settings = Settings()
    assert restore(settings, store, at=NOW + timedelta(hours=23)).manifest.name == first
    assert back(settings) == held
    settings.warehouse.unlink()
    assert restore(settings, store, at=NOW + timedelta(days=1)).manifest.name == second
    settings.warehouse.unlink()
    assert restore(settings, store, first).manifest.name == first
    settings.warehouse.unlink()
    with pytest.raises(WarehouseError, match=f"no snapshot taken at or before that time; the oldest is {first}"):
        restore(settings, store, at=datetime(2020, 1, 1))
    with pytest.raises(MissingError, match="has no snapshot x; `tally snapshot --list`"):
        restore(settings, store, "x")
    assert not settings.warehouse.exists()


def test_a_home_with_a_warehouse_is_left_alone(two, store):
    settings = Settings()
    settings.root.mkdir(exist_ok=True)
    for file in (settings.warehouse, settings.warehouse.with_name("tally.duckdb.wal")):
        file.write_bytes(b"mine")
        with pytest.raises(
            WarehouseError, match=r"exists: a restore needs a TALLY_HOME without a warehouse.*move the file away"
        ):
            restore(settings, store)
        assert file.read_bytes() == b"mine"
        file.unlink()


def flip(store, name):
    """One bit of the largest file: the size stays."""
    path = max(store.list(f"snapshots/{name}"), key=lambda e: (not e.path.endswith(MANIFEST), e.size)).path
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))


def cut(store, name):
    data = store.get(path_of(name, "state_judge.parquet"))
    store.put(path_of(name, "state_judge.parquet"), data[:-1])


def exchange(store, name):
    """A file of another time: a restore that believed names alone would mix two states."""
    other = store.list("snapshots")[0].path.split("/")[1]
    store.put(path_of(name, "ledger_offsets.parquet"), store.get(path_of(other, "ledger_offsets.parquet")))


def tear(store, name):
    data = store.get(path_of(name, MANIFEST))
    store.put(path_of(name, MANIFEST), data[: len(data) // 2])


def falsify(store, name):
    data = store.get(path_of(name, MANIFEST))
    store.put(path_of(name, MANIFEST), data.replace(b'"next_offset": 310', b'"next_offset": 311'))


def borrow(store, name):
    other = store.list("snapshots")[0].path.split("/")[1]
    store.put(path_of(name, MANIFEST), store.get(path_of(other, MANIFEST)))


DAMAGES = {
    "missing file": (
        lambda s, n: s.delete([path_of(n, "main_late_events.parquet")]),
        "the file main_late_events.parquet is missing",
    ),
    "half-written": (lambda s, n: s.delete([path_of(n, MANIFEST)]), "half-written: it has no manifest"),
    "flipped bit": (flip, "was changed after it was written"),
    "cut file": (cut, "state_judge.parquet has"),
    "file of another snapshot": (exchange, "ledger_offsets.parquet"),
    "torn manifest": (tear, "its manifest is torn"),
    "empty manifest": (lambda s, n: s.put(path_of(n, MANIFEST), b""), "its manifest is torn"),
    "falsified manifest": (falsify, "its manifest was changed"),
    "manifest of another snapshot": (borrow, "its manifest is that of"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_and_the_one_before_is_used_or_offered(two, store, damage, told):
    (first, held), (second, _) = two
    settings = Settings()
    damage(store, second)
    with pytest.raises(DamagedError, match=told) as refused:
        restore(settings, store, second)
    assert f"it was not restored; the one before it looks whole: `tally restore {first}`" in str(refused.value)
    assert not settings.warehouse.exists()
    assert not (settings.root / "restore").exists()
    restored = restore(settings, store)
    assert restored.manifest.name == first
    assert [told in problem for problem in restored.passed_over] == [True]
    assert back(settings) == held


def test_when_all_are_damaged_each_is_named(two, store):
    for name, _ in two:
        tear(store, name)
    with pytest.raises(DamagedError, match=f"no snapshot can be restored: .*{two[1][0]}.*{two[0][0]}"):
        restore(Settings(), store)
    assert not Settings().warehouse.exists()


def test_rows_that_do_not_come_back_are_noticed(two, store, monkeypatch):
    """The negative control: files that pass every checksum, and a build that loses a row."""
    import tallystream.warehouse.restore as module

    real = module.tables_of

    def lossy(con):
        con.execute("DELETE FROM ledger.commits WHERE id = 1")
        return real(con)

    monkeypatch.setattr(module, "tables_of", lossy)
    with pytest.raises(DamagedError, match=r"ledger\.commits came back with 2 rows, not the 3 that were exported"):
        restore(Settings(), store, two[0][0])
    monkeypatch.setattr(
        module, "tables_of", lambda con: con.execute("UPDATE late_events SET reason = 'x'") and real(con)
    )
    with pytest.raises(DamagedError, match=r"main\.late_events came back .* or with other values"):
        restore(Settings(), store, two[0][0])
    assert not Settings().warehouse.exists()


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_anywhere_the_home_is_empty_or_whole(failpoint, folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse)
    held = contents(con)
    snapshot(con, settings, folder_store)
    con.close()
    settings.warehouse.unlink()
    assert killed_at(failpoint, RESTORE) == -9
    assert settings.warehouse.exists() == (failpoint == "restore.after_rename")
    if not settings.warehouse.exists():
        restore(settings, folder_store)
        assert not (settings.root / "restore").exists()
    assert back(settings) == held


def test_sealed_it_needs_its_key(folder_store, home, monkeypatch):
    pytest.importorskip("cryptography")
    settings = Settings()
    con = fill(settings.warehouse)
    held = contents(con)
    plain = snapshot(con, settings, folder_store, NOW)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    sealed = snapshot(con, settings, folder_store, NOW + timedelta(days=1))
    con.close()
    settings.warehouse.unlink()
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "cd" * 32)
    for name in (sealed, None):
        with pytest.raises(
            SealedError, match=rf"{sealed} is sealed with key .*set the key it was taken with.*`tally restore {plain}`"
        ):
            restore(settings, folder_store, name)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    assert restore(settings, folder_store).manifest.name == sealed
    assert back(settings) == held


def test_a_changed_sealed_file_does_not_open_even_with_its_checksum(folder_store, home, monkeypatch):
    pytest.importorskip("cryptography")
    from tallystream.store.seal import Key

    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    settings = Settings()
    con = fill(settings.warehouse, 3)
    name = snapshot(con, settings, folder_store, NOW)
    con.close()
    settings.warehouse.unlink()
    # Two files exchanged whole, and a manifest that agrees: only the name inside the seal tells.
    (found,) = catalog(folder_store, Key(b"\xab" * 32))
    a, b = (path_of(name, f) for f in ("main_late_events.parquet", "main_dead_letters.parquet"))
    one, two = folder_store.get(a), folder_store.get(b)
    folder_store.put(a, two)
    folder_store.put(b, one)
    sums = {f.path: f for f in found.manifest.files}
    swapped = [
        type(f)(f.path, sums[other].size, sums[other].sha256)
        for f in found.manifest.files
        for other in [
            {
                "main_late_events.parquet": "main_dead_letters.parquet",
                "main_dead_letters.parquet": "main_late_events.parquet",
            }.get(f.path, f.path)
        ]
    ]
    folder_store.put(
        path_of(name, MANIFEST),
        type(found.manifest)(**{**vars(found.manifest), "files": swapped}).encode(Key(b"\xab" * 32)),
    )
    with pytest.raises(DamagedError, match="does not open"):
        restore(settings, folder_store)


def test_a_home_with_quotes_and_spaces(tmp_path, folder_store, home):
    odd = Settings(home=tmp_path / "it's a {here} home")
    con = fill(odd.warehouse, 3)
    held = contents(con)
    snapshot(con, odd, folder_store)
    con.close()
    shutil.rmtree(odd.root)
    restore(odd, folder_store)
    assert back(odd) == held


def test_a_snapshot_of_a_newer_tallystream_is_refused(folder_store, home):
    settings = Settings()
    con = fill(settings.warehouse, 3)
    con.execute("UPDATE tallystream_schema SET version = 99")
    snapshot(con, settings, folder_store)
    con.close()
    settings.warehouse.unlink()
    with pytest.raises(WarehouseError, match=r"has schema version 99, this Tallystream knows .* nothing was restored"):
        restore(settings, folder_store)
    assert not settings.warehouse.exists()
