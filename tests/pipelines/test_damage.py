"""Snapshots and rows that somebody spoiled: found, told, and what is restored instead."""

from __future__ import annotations

import dagster as dg
import duckdb
import pytest

from pipelines.catalog import catalog
from pipelines.checks.books import judge_parity
from tallystream import settings as environment
from tallystream.store.objects import Store, open_store
from tallystream.warehouse.manifest import MANIFEST, path_of
from tallystream.warehouse.manifest import catalog as snapshots
from tallystream.warehouse.parity import Compared, parity
from tests.pipelines.conftest import Plant
from tests.pipelines.inprocess import SNAPSHOT, checks, facts, failure, run
from tests.store.fixtures import AWS, BUCKET, s3_endpoint  # noqa: F401

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_damaged_snapshot_is_found_and_the_one_before_it_is_restored(
    plant: Plant,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    """A flipped byte, a missing file, a torn manifest: each newer than the good one, none restored. Then another key.

    At rest: a stream takes snapshots into its own store, with its own key.
    """
    plant.stop()
    if kind == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
        for name, value in AWS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TALLY_OBJECT_STORE", f"s3://{BUCKET}/drill")
    assert run("snapshot", instance).success
    store = open_store(environment.load())
    good = snapshots(store, None)[-1].name
    broken = []
    for how in ("flip", "missing", "torn"):
        assert run("snapshot", instance).success
        name = snapshots(store, None)[-1].name
        damage(store, name, how)
        broken.append(name)
    result = run("restore_drill", instance)
    assert result.success
    assert facts(result, dg.AssetKey(["recovery", "restore_drill"]))["snapshot"] == good
    found = checks(result)
    assert not found["recovery/restore_drill:newest_is_whole"].passed
    assert found["recovery/restore_drill:views_equal_the_live_ones"].passed
    passed_over = found["recovery/restore_drill:newest_is_whole"].metadata["passed_over"].value
    assert all(any(name in sentence for sentence in passed_over) for name in broken)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    sealed = facts(run("snapshot", instance), SNAPSHOT)["name"]
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "cd" * 32)
    # Not passed over: it may be whole, and an older one would lose the time since without a word.
    refused = failure(run("restore_drill", instance))
    assert f"snapshot {sealed} is sealed with key" in refused and "set the key it was taken with" in refused
    assert "the one before it looks whole: `tally restore " in refused
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    assert facts(run("restore_drill", instance), dg.AssetKey(["recovery", "restore_drill"]))["snapshot"] == sealed


def damage(store: Store, name: str, how: str) -> None:
    """What a bad disk, a hand or a crash does to a snapshot, in a folder as in S3."""
    manifest = path_of(name, MANIFEST)
    sizes = {e.path: e.size for e in store.list(f"snapshots/{name}") if e.path.endswith(".parquet")}
    file = max(sizes, key=sizes.__getitem__)
    if how == "torn":
        store.put(manifest, store.get(manifest)[:200])
    elif how == "missing":
        store.delete([file])
    elif how == "flip":
        data = bytearray(store.get(file))
        data[len(data) // 2] ^= 1
        store.put(file, bytes(data))


# What is changed of a view's state, behind the stream's back: an event more, or a match less.
SPOILED = {
    "revenue_per_minute": "a0 = a0 + 1",
    "clicks_per_minute": "a0 = a0 + 1",
    "top_products": "a0 = a0 + 1",
    "sessions": "a0 = a0 + 1",
    "order_status": "a6 = a6 + 1",
    "order_attribution": "r = NULL",
    "order_first_click": "l0 = l0 || 'x'",
}


def spoil(plant: Plant, name: str) -> None:
    plan = catalog().views[name]
    with duckdb.connect(str(plant.settings.warehouse)) as con:
        for table in (plan.state, plan.cold):
            con.execute(f"UPDATE {table} SET {SPOILED[name]}")


def test_drill_and_parity_see_rows_that_were_changed(plant: Plant, instance: dg.DagsterInstance) -> None:
    """Negative control, at rest, and last: the drill of one view, parity of every shape."""
    run("snapshot", instance)
    plant.stop()
    spoil(plant, "revenue_per_minute")
    drilled = checks(run("restore_drill", instance))["recovery/restore_drill:views_equal_the_live_ones"]
    assert not drilled.passed and list(drilled.metadata["differing"].value) == ["revenue_per_minute"]
    store = open_store(plant.settings)
    for name, plan in catalog().views.items():
        if name != "revenue_per_minute":
            assert judge_parity(parity(plant.settings, store, plan, 5, 7)).level == "ok", name
            spoil(plant, name)
        verdict = judge_parity(parity(plant.settings, store, plan, 5, 7))
        assert (verdict.level, verdict.numbers["differing"] > 1) == ("error", True), name


def test_parity_without_a_comparison_is_no_pass() -> None:
    verdict = judge_parity(Compared("sessions", "sessions", skipped="none of its rows is final yet"))
    assert verdict.level == "warn" and verdict.sentence == "nothing was compared: none of its rows is final yet"
