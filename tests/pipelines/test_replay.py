"""The jobs `replay` and `backfill`, in process, against a live stream."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from tallystream.views.loader import VIEWS
from tests.pipelines.conftest import Plant
from tests.pipelines.test_jobs import failure, run

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded


def replayed(instance: dg.DagsterInstance, **form: Any) -> dg.ExecuteInProcessResult:
    return run("replay", instance, run_config={"ops": {"replay_range": {"config": form}}})


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    (done,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {k: getattr(v, "records", None) or v.value for k, v in done.event_specific_data.metadata.items()}


def test_nothing_differs_when_nothing_was_changed(plant: Plant, instance: dg.DagsterInstance) -> None:
    found = told(replayed(instance, mode="diff"))
    assert found["changed_cells"] == 0 and found["messages"] > 20_000
    views = {r.data["view"]: r.data for r in found["views"]}
    assert views["revenue_per_minute"]["compared"] > 0
    assert all(r["added"] == r["missing"] == r["changed"] == 0 for r in views.values())


def test_a_changed_view_is_shown_cell_by_cell(plant: Plant, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """A planted bug: every order counts twice its cents."""
    folder = tmp_path / "views"
    folder.mkdir()
    text = (VIEWS / "revenue_per_minute.sql").read_text()
    (folder / "revenue_per_minute.sql").write_text(text.replace("sum(total_cents)", "sum(2 * total_cents)"))
    found = told(replayed(instance, mode="diff", topics=["orders"], views_dir=str(folder)))
    assert found["changed_cells"] > 0
    first = found["diff"][0].data
    assert first["column"] == "revenue_cents" and int(first["replayed"]) == 2 * int(first["live"])
    assert pq.read_table(found["diff_file"]).num_rows == found["changed_cells"]


def test_a_sandbox_leaves_a_file_of_its_own(plant: Plant, instance: dg.DagsterInstance) -> None:
    found = told(replayed(instance, mode="sandbox", topics=["orders"], partitions=[0], from_offset=0, to_offset=100))
    assert Path(found["sandbox"]).exists() and 0 < found["messages"] <= 100
    shutil.rmtree(Path(found["sandbox"]).parent)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"topics": ["payments"]}, "orders"),
        ({"partitions": [9]}, "partition 9"),
        ({"from_offset": 10, "to_offset": 5}, "empty"),
        ({"from_offset": 10**12}, "tallied"),
        ({"from_time": "yesterday"}, "2026-03-01T12:00:00Z"),
        ({"views_dir": "/nowhere/at/all"}, "no folder"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_what_there_is(
    plant: Plant, instance: dg.DagsterInstance, form: dict[str, Any], sentence: str
) -> None:
    assert sentence in failure(replayed(instance, mode="sandbox", **form))


def test_a_value_that_the_form_does_not_know_is_refused_before_the_run(
    plant: Plant, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        replayed(instance, mode="overwrite")


def test_a_day_is_backfilled_in_one_run_and_changes_nothing_that_is_right(
    plant: Plant, instance: dg.DagsterInstance
) -> None:
    """The hour before this one and this one may both hold events: the range ends with the last that is over."""
    assert run("archive", instance).success
    hours = [(datetime.now(UTC) - timedelta(hours=n)).strftime("%Y-%m-%d-%H:00") for n in (24, 1)]
    tags = {"dagster/asset_partition_range_start": hours[0], "dagster/asset_partition_range_end": hours[1]}
    result = run("backfill", instance, tags=tags)
    assert result.success, failure(result)
    made = [e for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION"]
    assert len(made) == 24
    metadata = {k: v.value for k, v in made[0].materialization.metadata.items() if hasattr(v, "value")}
    assert metadata["changed_cells"] == 0 and metadata["promotion"] == "none"
