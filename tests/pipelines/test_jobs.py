"""Every job that the clock runs, in process, against a live stream; what it leaves is looked at from outside Dagster."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from pipelines.catalog import catalog, model_key
from pipelines.checks import gx
from pipelines.definitions import defs
from tallystream.cli.processes import UP, mark_of_self
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics import broker
from tallystream.warehouse.archive_index import load, partitions
from tallystream.warehouse.manifest import catalog as snapshots
from tallystream.warehouse.status import collect
from tests.pipelines.conftest import Plant
from tests.pipelines.inprocess import checks, facts, failure, hour, run

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded


def test_archive_has_every_committed_offset_and_tells_of_the_hour_asked_for(
    plant: Plant, instance: dg.DagsterInstance
) -> None:
    result = run("archive", instance, partition_key=hour(1))
    assert result.success
    store = open_store(plant.settings)
    status = collect(plant.settings)
    for p in status["partitions"]:
        assert p["position"] > 0
        assert load(store, p["topic"], p["partition"]).next == p["position"]
    told = facts(result, dg.AssetKey(["archive", "orders"]))
    spans = [s for p in partitions(store, "orders") for s in load(store, "orders", p).spans]
    assert told["dagster/partition_row_count"] == sum(
        s.rows for s in spans if s.hour == int(datetime.now(UTC).timestamp()) // 3600 - 1
    )
    assert told["files_in_all"] == sum(len(s.pieces) for s in spans)
    whole = run("archive", instance)
    assert whole.success
    rows = facts(whole, dg.AssetKey(["archive", "orders"]))["dagster/row_count"]
    consumed = sum(p["consumed"] for p in status["partitions"] if p["topic"] == "orders")
    undecodable = sum(s.dead_rows for s in spans)
    assert rows + undecodable == consumed > 1000


def test_a_backfill_of_a_day_of_the_archive_is_one_run(plant: Plant, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/asset_partition_range_start": hour(24), "dagster/asset_partition_range_end": hour(1)}
    result = run("archive", instance, tags=tags)
    assert result.success
    keys = {e.partition for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION"}
    assert len(keys) == 24 and {hour(24), hour(1)} <= keys


def test_snapshot(plant: Plant, instance: dg.DagsterInstance) -> None:
    result = run("snapshot", instance)
    assert result.success
    told = facts(result, dg.AssetKey(["recovery", "snapshot"]))
    newest = snapshots(open_store(plant.settings), None)[-1]
    assert newest.good and newest.name == told["name"] and newest.manifest is not None
    assert told["dagster/row_count"] == newest.manifest.rows > 1000
    assert checks(result)["recovery/snapshot:is_whole"].passed


def test_snapshots_expire_as_the_form_says(plant: Plant, instance: dg.DagsterInstance) -> None:
    run("snapshot", instance)
    config = {"ops": {"recovery__snapshot": {"config": {"keep_last": 1, "keep_days": 0.0}}}}
    assert facts(run("snapshot", instance, run_config=config), dg.AssetKey(["recovery", "snapshot"]))["expired"] >= 1
    assert len(snapshots(open_store(plant.settings), None)) == 1
    config["ops"]["recovery__snapshot"]["config"]["keep_last"] = 0
    assert failure(run("snapshot", instance, run_config=config)) == "keep_last is 0; say 1 or more"
    forget = {"ops": {"forget_old_runs": {"config": {"event_days": -1.0}}}}
    assert failure(run("compact", instance, run_config=forget)) == "event_days is -1.0; say 0 or more"


def test_a_drill_reads_the_tail_while_the_stream_runs(plant: Plant, instance: dg.DagsterInstance) -> None:
    run("snapshot", instance)
    plant.generate(3000, 6)
    plant.settle()
    result = run("restore_drill", instance)
    assert result.success
    told = facts(result, dg.AssetKey(["recovery", "restore_drill"]))
    assert told["tail_messages"] >= 3000
    assert 0 < told["restore_seconds"] < told["rto_seconds"] and told["rpo_seconds"] > 0
    assert all(e.passed for e in checks(result).values())
    assert set(checks(result)["recovery/restore_drill:views_equal_the_live_ones"].metadata["compared"].value) == set(
        catalog().views
    )
    assert not (plant.settings.root / "drill").exists()


def test_compact_moves_final_rows_merges_files_and_forgets_old_runs(plant: Plant, instance: dg.DagsterInstance) -> None:
    """The views say the same before and after, while the stream runs."""
    query = "SELECT count(*) AS n, sum(hash(v))::VARCHAR AS h FROM revenue_per_minute v"
    before = plant.tally("sql", "--format", "json", query)
    old = run("snapshot", instance).run_id
    result = run("compact", instance, run_config={"ops": {"forget_old_runs": {"config": {"run_days": 0.0}}}})
    assert result.success
    told = {
        e.step_key: {k: v.value for k, v in e.event_specific_data.metadata.items()}
        for e in result.all_events
        if e.event_type_value == "STEP_OUTPUT"
    }
    assert told["compact_warehouse"]["views"]["revenue_per_minute"]["cold"] > 0
    assert told["compact_warehouse"]["bytes_after"] > 0
    assert told["merge_archive_files"]["files_after"] <= told["merge_archive_files"]["files_before"]
    assert told["forget_old_runs"]["runs_removed"] > 0 and instance.get_run_by_id(old) is None
    assert plant.tally("sql", "--format", "json", query) == before


def test_every_check_of_quality_passes_on_a_sound_stream(plant: Plant, instance: dg.DagsterInstance) -> None:
    result = run("quality", instance)
    assert result.success
    found = checks(result)
    assert {k: e.description for k, e in found.items() if not e.passed} == {}
    for topic in ("orders", "clicks"):
        assert found[f"topics/{topic}:conservation"].metadata["consumed"].value > 1000
    # Parity looked at something of every shape of view, and not at none.
    for name in catalog().views:
        told = {k: v.value for k, v in found[f"views/{name}:parity"].metadata.items()}
        assert told["sampled"] >= 2 and told["rows"] >= 2 and told["events"] >= 2 and told["differing"] == 0, name
    assert found["views/top_products:parity"].metadata["rows"].value > 100
    page = found["views/order_status:keys"].metadata["page"].path
    assert "expect_column_values_to_be_unique" in Path(page).read_text() or "unique" in Path(page).read_text()


def test_models_are_made_and_equal_the_same_question_to_the_live_views(
    plant: Plant, instance: dg.DagsterInstance
) -> None:
    keys = [model_key(name) for name in catalog().models.models]
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(keys))
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    made = plant.settings.root / "models" / "marts"
    paid = duckdb.sql(f"SELECT sum(paid_cents)::BIGINT FROM '{made}/customer_lifetime_value.parquet'").fetchone()
    asked = plant.tally(
        "sql",
        "--format",
        "json",
        "SELECT sum(total_cents)::BIGINT AS n FROM order_status WHERE status = 'PaymentCompleted'",
    )
    assert paid is not None and paid[0] == json.loads(asked)[0]["n"] > 0
    hours = duckdb.sql(f"SELECT sum(views)::BIGINT FROM '{made}/conversion_funnel_by_hour.parquet'").fetchone()
    clicks = plant.tally(
        "sql", "--format", "json", "SELECT sum(clicks)::BIGINT AS n FROM clicks_per_minute WHERE event_type = 'view'"
    )
    assert hours is not None and hours[0] == json.loads(clicks)[0]["n"]


def test_a_broken_key_stops_the_models_downstream(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """stg_orders with two rows of one order: the lifetime values are not made of it."""
    keys = {model_key("stg_orders"), model_key("customer_lifetime_value")}
    good = gx.validate

    def doubled(name: str, rows: Any, *more: Any) -> gx.Found:
        import pyarrow as pa

        return good(name, pa.concat_tables([rows, rows.slice(0, 1)]) if name == "stg_orders.keys" else rows, *more)

    monkeypatch.setattr(gx, "validate", doubled)
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=keys,
        asset_check_selection=set(defs.resolve_asset_graph().asset_check_keys)
        & {dg.AssetCheckKey(model_key("stg_orders"), "keys")},
    )
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    made = {e.asset_key for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION"}
    assert made == {model_key("stg_orders")}
    assert "unique" in checks(result)["staging/stg_orders:keys"].description


def test_an_error_that_a_person_can_mend_is_one_sentence(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("TALLY_OBJECT_STORE", raising=False)
    assert "tally run" in failure(run("snapshot", instance))
    assert "no snapshot" in failure(run("restore_drill", instance))


def test_a_job_uses_a_broker_that_runs_and_starts_none(
    plant: Plant, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that outlived its `tally up` started the embedded broker anew, and nobody was left to stop it."""
    home = tmp_path / "home"
    home.mkdir()
    plant.tally("snapshot")
    monkeypatch.setenv("TALLY_OBJECT_STORE", plant.settings.store_url)
    monkeypatch.setenv("TALLY_HOME", str(home))
    monkeypatch.delenv("TALLY_BOOTSTRAP_SERVERS", raising=False)
    plant.tally("restore")
    for job in ("archive", "replay", "restore_drill"):
        assert "`tally broker start`" in failure(run(job, instance))
    assert broker.status(Settings(home=home)) is None and not (home / "broker").exists()


def test_a_run_whose_up_is_gone_promotes_nothing(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent was killed, so it cancelled nothing; a pid that another process has now is not the parent."""
    config = {"ops": {"replay_range": {"config": {"mode": "promote"}}}}
    monkeypatch.setenv(UP, mark_of_self()[UP])
    assert run("replay", instance, run_config=config).success
    monkeypatch.setenv(UP, f"{os.getpid()}:1")
    assert "has ended; nothing was rewritten" in failure(run("replay", instance, run_config=config))
