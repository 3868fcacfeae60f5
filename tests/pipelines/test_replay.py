"""The jobs `replay` and `backfill`, in process, against a live stream."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from pipelines.assets.backfill import judged
from tallystream.replay import api
from tallystream.replay.api import ReplayResult
from tallystream.settings import Settings
from tallystream.topics import client
from tallystream.views.loader import VIEWS
from tallystream.warehouse.read import open_reader
from tests.pipelines.conftest import Plant
from tests.pipelines.test_jobs import checks, failure, run

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


def test_a_corrected_view_is_promoted_while_the_stream_runs_and_undone(
    plant: Plant, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """By the job, through the stream's own writer."""
    query = "SELECT * FROM revenue_per_minute ORDER BY ALL"

    def live() -> list[tuple[Any, ...]]:
        with open_reader(plant.settings) as reader:
            assert reader.live
            return reader.rows(query)[2]

    before = live()
    folder = tmp_path / "views"
    folder.mkdir()
    text = (VIEWS / "revenue_per_minute.sql").read_text()
    (folder / "revenue_per_minute.sql").write_text(text.replace("sum(total_cents)", "sum(2 * total_cents)"))
    found = told(replayed(instance, mode="promote", topics=["orders"], views_dir=str(folder)))
    assert found["promotion"] >= 1 and "not_promoted" not in found
    assert live() == [(*row[:4], 2 * row[4], *row[5:]) for row in before]
    assert api.undo(plant.settings, found["promotion"])["views"] == ["revenue_per_minute"]
    assert live() == before


def test_a_sandbox_leaves_a_file_of_its_own(plant: Plant, instance: dg.DagsterInstance) -> None:
    found = told(replayed(instance, mode="sandbox", topics=["orders"], partitions=[0], from_offset=0, to_offset=100))
    assert Path(found["sandbox"]).exists() and 0 < found["messages"] <= 100
    shutil.rmtree(Path(found["sandbox"]).parent)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"topics": ["payments"]}, "there is no topic payments; the topics are orders and clicks"),
        ({"topics": []}, "no topic is named; the topics are orders and clicks"),
        ({"partitions": [9]}, "orders has no partition 9; it has [0, 1]"),
        ({"partitions": [-1]}, "orders has no partition -1; it has [0, 1]"),
        ({"from_offset": -1}, "from_offset is -1; offsets begin at 0"),
        ({"to_offset": -5}, "to_offset is -5; offsets begin at 0"),
        ({"from_offset": 10, "to_offset": 5}, "the range of offsets [10, 5) is empty"),
        ({"from_offset": 7, "to_offset": 7}, "the range of offsets [7, 7) is empty"),
        ({"from_offset": 10**12}, "there is orders: event times "),
        ({"rate": 0}, "the rate is 0 messages a second; say 1 or more"),
        ({"rate": -3}, "the rate is -3 messages a second; say 1 or more"),
        ({"from_time": "yesterday"}, "from_time: yesterday is no time; write one such as 2026-11-24T10:00:00Z"),
        ({"to_time": "25:00"}, "to_time: 25:00 is no time"),
        ({"from_time": "2026-03-01T12:00:00Z", "to_time": "2026-03-01T12:00:00Z"}, "the range of times"),
        (
            {"from_time": "2126-01-01"},
            "no event of orders or clicks lies in [2126-01-01 00:00:00, the end); there is orders",
        ),
        ({"from_time": "2126-01-01", "time_kind": "log"}, "the range holds no offset"),
        ({"from_time": "2026-01-01", "from_offset": 3, "time_kind": "log"}, "of offsets or of the log's times"),
        ({"views_dir": "/nowhere/at/all"}, "views_dir /nowhere/at/all is no folder"),
    ],
    ids=str,
)
def test_what_cannot_be_replayed_is_refused_with_what_there_is(
    plant: Plant, instance: dg.DagsterInstance, form: dict[str, Any], sentence: str
) -> None:
    assert sentence in failure(replayed(instance, mode="sandbox", **form))


def test_offsets_below_retention_are_refused_with_what_is_kept(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker removes nothing, so the log is told to begin at 50."""

    def shortened(settings: Settings, topics: Any) -> Any:
        found = client.topic_logs(settings, topics)
        return {t: (i, {p: (50, high) for p, (_, high) in ranges.items()}) for t, (i, ranges) in found.items()}

    monkeypatch.setattr("tallystream.replay.request.topic_logs", shortened)
    sentence = failure(replayed(instance, mode="diff", topics=["orders"], from_offset=10, to_offset=40))
    assert "retention has removed offsets [0, 50) of" in sentence
    assert "orders/0 [50, " in sentence and sentence.endswith("replay with --source archive")


def test_a_value_that_the_form_does_not_know_is_refused_before_the_run(
    plant: Plant, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError):
        replayed(instance, mode="overwrite")


def hours(ago: int = 0) -> dict[str, str]:
    """24 whole hours, the last of them so many days and one hour ago, as one run's tags."""
    now = datetime.now(UTC) - timedelta(days=ago)
    first, last = ((now - timedelta(hours=n)).strftime("%Y-%m-%d-%H:00") for n in (24, 1))
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def yesterdays(clicks: int, orders: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events of twelve hours ago, a second apart: far too late for the stream."""
    since = datetime.now(UTC) - timedelta(hours=12)
    late = [
        {"event_id": f"late-{n}", "event_type": "view", "user_id": f"u{n % 3}", "product_id": "p1"}
        for n in range(clicks)
    ]
    sold = [
        {
            "event_id": f"sold-{n}", "event_type": "OrderCreated", "order_id": f"o{n}", "customer_id": f"u{n % 3}",
            "items": [{"product_id": "p1", "quantity": 1, "unit_price_cents": 100}], "total_cents": 100, "currency": "EUR",
        }
        for n in range(orders)
    ]  # fmt: skip
    for n, event in enumerate([*late, *sold]):
        event["event_time"] = (since + timedelta(seconds=n)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return late, sold


def test_a_night_brings_yesterdays_late_events_in_once(
    plant: Plant, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """They are late when they come, and in the views after the night; a second night changes nothing, and takes none out."""
    assert run("archive", instance).success
    refused = run("backfill", instance, tags=hours(3))
    assert "no event of orders or clicks lies in" in failure(refused)
    for topic, events in zip(("clicks", "orders"), yesterdays(40, 10), strict=True):
        (file := tmp_path / f"{topic}.ndjson").write_text("\n".join(json.dumps(e) for e in events))
        plant.tally("produce", str(file), "--topic", topic)
    plant.settle()
    before = totals(plant)
    assert run("archive", instance).success
    assert "late_events" not in backfilled(run("backfill", instance, tags=hours(), run_config=WITHOUT_LATE))
    assert totals(plant) == before
    first = backfilled(run("backfill", instance, tags=hours()))
    assert (first["late_events_brought_in"], first["changed_cells"], first["promotion"]) == (50, 0, "none")
    after = totals(plant)
    assert after[:2] == (before[0] + 40, before[1] + 10)
    second = backfilled(run("backfill", instance, tags=hours()))
    assert (second["late_events_brought_in"], second["changed_cells"], second["promotion"]) == (0, 0, "none")
    assert totals(plant) == after
    assert told(replayed(instance, mode="diff"))["changed_cells"] == 0


def totals(plant: Plant) -> tuple[Any, ...]:
    """Clicks, orders, and a hash of all sessions of yesterday."""
    with open_reader(plant.settings) as reader:
        (row,) = reader.rows(
            "SELECT (SELECT sum(clicks) FROM clicks_per_minute), (SELECT sum(orders) FROM revenue_per_minute), "
            "(SELECT sum(hash(v)) FROM sessions v WHERE window_start < now()::TIMESTAMP - INTERVAL 1 HOUR)"
        )[2]
    return row


WITHOUT_LATE = {"ops": {"recovery__backfill": {"config": {"late_events": False}}}}


def backfilled(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of a backfill that is right: one run for all hours, every check passed."""
    assert result.success, failure(result)
    made = [e for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION"]
    assert len(made) == 24
    assert {k: e.description for k, e in checks(result).items() if not e.passed} == {} and len(checks(result)) == 3
    return {k: v.value for k, v in made[0].materialization.metadata.items() if hasattr(v, "value")}


def test_a_partition_that_is_not_done_is_not_green() -> None:
    view = {"view": "", "left_out": None, "spared": 0, "promotions": ()}
    done = ReplayResult(
        "promote",
        "",
        10,
        [],
        {},
        views=[
            {**view, "view": "revenue_per_minute", "spared": 3, "promotions": (1, 2)},
            {**view, "view": "hourly", "left_out": "its rows do not tell"},
        ],
        not_promoted={"sessions": "they hold on to events"},
        late={"applied": 5, "duplicate": 1, "undecodable": 0, "ahead": 0, "waiting": 0, "unproven": 4, "settled": 0},
    )
    swapped, compared, late = judged(done)
    assert not swapped.passed and swapped.severity is dg.AssetCheckSeverity.ERROR
    assert swapped.description == "sessions: they hold on to events"
    assert not compared.passed and "hourly: its rows do not tell" in str(compared.description)
    assert "3 rows are as promotion 1 and 2 made them" in str(compared.description)
    assert not late.passed and late.description == "unproven: 4 late events"
    assert all(r.passed for r in judged(ReplayResult("promote", "", 10, [], {}, views=[{**view, "view": "sessions"}])))
