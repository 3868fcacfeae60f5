"""Schedules and sensors: what they ask for, and that they say it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from pipelines.assets.backfill import backfill_yesterday
from pipelines.catalog import catalog, model_key, view_key
from pipelines.checks import state
from pipelines.definitions import defs
from pipelines.sensors import alerts, runs
from pipelines.sensors.observe import observe_views
from pipelines.tally import Tally, told
from tallystream.errors import UsageError
from tallystream.warehouse.status import collect
from tests.pipelines.conftest import Plant

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded

AT = datetime(2026, 3, 1, 4, 35, tzinfo=UTC)


def context(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorEvaluationContext:
    return dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, resources={"tally": Tally()})


def ticked(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, at: datetime) -> dg.ScheduleExecutionData:
    repository = defs.get_repository_def()
    told = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=at, repository_def=repository, resources={"tally": Tally()}
    )
    return schedule.evaluate_tick(told)


@pytest.mark.parametrize("schedule", defs.get_repository_def().schedule_defs, ids=lambda s: s.name)
def test_schedule(
    schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_HOME", str(tmp_path))
    asked = ticked(schedule, instance, AT)
    assert len(asked.run_requests or []) == 1
    (request,) = asked.run_requests or []
    job = defs.resolve_job_def(schedule.job_name)
    if schedule.job_name == "archive":
        assert request.partition_key == "2026-03-01-03:00"
    dg.validate_run_config(job, request.run_config)


def test_a_night_without_an_event_of_yesterday_starts_no_run(plant: Plant, instance: dg.DagsterInstance) -> None:
    """The run would refuse the range, and a quiet shop would have a failed run each morning."""
    assert ticked(backfill_yesterday, instance, AT).skip_message == "no event of 2026-02-28 was met"
    (request,) = ticked(backfill_yesterday, instance, datetime.now(UTC) + timedelta(days=1)).run_requests or []
    assert request.tags["dagster/asset_partition_range_start"].endswith("-00:00")
    assert request.tags["dagster/asset_partition_range_end"].endswith("-23:00")


def test_the_models_clock_asks_for_all_models_four_times_an_hour(instance: dg.DagsterInstance) -> None:
    """`make_models`, tick by tick: nothing at first, all of them once a quarter has begun, and not again within it."""
    selection = next(s for s in defs.get_repository_def().sensor_defs if s.name == "make_models").asset_selection
    cursor, asked = None, []
    for minute in (1, 2, 14, 16, 17, 29, 31):
        tick = dg.evaluate_automation_conditions(defs, instance, selection, AT.replace(hour=4, minute=minute), cursor)
        cursor = tick.cursor
        asked.append({r.key for r in tick.results if r.true_subset.size})
    models = {model_key(name) for name in catalog().models.models}
    assert asked == [set(), set(), set(), models, set(), set(), models]


def test_views_are_reported_once_a_minute_at_most_without_a_run(plant: Plant, instance: dg.DagsterInstance) -> None:
    assert observe_views.minimum_interval_seconds >= 60
    found = plant.settle()
    told = observe_views(context(instance))
    assert not told.run_requests and told.cursor == str(found["last_commit"]["id"])
    by_key = {e.asset_key: {k: v.value for k, v in e.metadata.items()} for e in told.asset_events}
    assert set(by_key) >= {view_key(name) for name in catalog().views}
    facts = by_key[view_key("clicks_per_minute")]
    clicks = [p for p in found["partitions"] if p["topic"] == "clicks"]
    for account in state.COUNTS:
        assert facts[account] == sum(p[account] for p in clicks)
    assert facts["lag"] == 0 and facts["watermark_age_seconds"] > 0
    watermark = datetime.fromisoformat(found["watermarks"]["clicks"]).timestamp()
    assert facts["watermark"] == facts["watermark_epoch_seconds"] == watermark
    # What the UI draws over time: it draws these two kinds of number, and a time is none of them.
    plotted = ("dagster/row_count", "lag", "watermark_epoch_seconds", "watermark_age_seconds", *state.COUNTS)
    (view,) = [e for e in told.asset_events if e.asset_key == view_key("clicks_per_minute")]
    numbers = (dg.IntMetadataValue, dg.FloatMetadataValue)
    assert all(isinstance(view.metadata[name], numbers) for name in (*plotted, "last_commit_age_seconds"))
    rows = json.loads(plant.tally("sql", "--format", "json", "SELECT count(*) AS n FROM clicks_per_minute"))[0]["n"]
    assert facts["dagster/row_count"] == rows > 0
    again = observe_views(context(instance, told.cursor))
    assert again.cursor == told.cursor


def test_a_view_that_waits_without_a_commit_is_not_reported_as_fresh(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plant.settle()
    for p in found["partitions"]:
        p["lag"] = 5
    monkeypatch.setattr("pipelines.sensors.observe.look", lambda _: found)
    fresh = observe_views(context(instance, "0"))
    stuck = observe_views(context(instance, str(found["last_commit"]["id"])))
    assert any(e.asset_key == view_key("order_status") for e in fresh.asset_events)
    assert not any(e.asset_key == view_key("order_status") for e in stuck.asset_events)


def changed(status: dict[str, Any], **values: int) -> dict[str, Any]:
    """The same status with other numbers for the first partition of orders."""
    made: dict[str, Any] = json.loads(json.dumps(status))
    next(p for p in made["partitions"] if p["topic"] == "orders").update(values)
    return made


def ticks(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, states: list[dict[str, Any]], patch: pytest.MonkeyPatch
) -> list[list[Any]]:
    """The evaluations of each look at a run of states."""
    cursor, told = None, []
    for found in states:
        patch.setattr(alerts, "look", lambda _, found=found: found)
        result = sensor(context(instance, cursor))
        cursor = result.cursor
        told.append([(e.asset_key.path[-1], e.check_name, e.passed, e.severity.value) for e in result.asset_events])
    return told


def test_lag_warns_then_fails_then_is_over_each_told_once(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = collect(plant.settings)
    states = [
        calm,
        changed(calm, lag=60_000),
        changed(calm, lag=70_000),
        changed(calm, lag=2_000_000),
        changed(calm, lag=2_000_001),
        calm,
        calm,
    ]
    assert ticks(alerts.lag, instance, states, monkeypatch) == [
        [], [("orders", "lag", False, "WARN")], [], [("orders", "lag", False, "ERROR")], [], [("orders", "lag", True, "WARN")], [],
    ]  # fmt: skip
    lines = [json.loads(line) for line in (plant.settings.root / "alerts.ndjson").read_text().splitlines()]
    assert [line["level"] for line in lines if line["what"] == "lag"] == ["warn", "error", "ok"]


def test_a_stream_that_is_down_is_told_only_when_messages_wait(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = collect(plant.settings)
    assert calm["stream"] == "running"
    idle, down = {**calm, "stream": "stopped"}, changed({**calm, "stream": "stopped"}, lag=7)
    told = ticks(alerts.stream_down, instance, [calm, idle, down, down, calm], monkeypatch)
    assert told == [
        [],
        [],
        [("orders", "stream_running", False, "ERROR")],
        [],
        [("orders", "stream_running", True, "ERROR")],
    ]
    stalled = changed({**calm, "last_commit": {**calm["last_commit"], "committed_at": "2020-01-01T00:00:00Z"}}, lag=7)
    assert state.judge_running(stalled, "orders").level == "error"


def test_a_spike_of_dead_letters_is_of_the_time_since_the_last_look(
    plant: Plant, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = collect(plant.settings)
    consumed = next(p for p in calm["partitions"] if p["topic"] == "orders")["consumed"]
    spike = changed(calm, consumed=consumed + 1000, dead=100)
    over = changed(calm, consumed=consumed + 2000, dead=100)
    told = ticks(alerts.dead_letter_spike, instance, [calm, spike, over], monkeypatch)
    assert told == [
        [],
        [("orders", "dead_letter_rate", False, "ERROR")],
        [("orders", "dead_letter_rate", True, "WARN")],
    ]


def test_no_sensor_starts_a_broker_that_is_not_there(
    tmp_path: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("TALLY_BOOTSTRAP_SERVERS", raising=False)
    for sensor in (observe_views, alerts.lag, alerts.stream_down, alerts.dead_letter_spike):
        assert isinstance(sensor(context(instance)), dg.SkipReason)
    assert not (tmp_path / "nothing" / "broker").exists()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (dg.Failure("the sky is falling"), "the sky is falling"),
        (UsageError("there is no topic payments"), "there is no topic payments"),
        (OSError("No space left on device"), "OSError: No space left on device"),
    ],
    ids=["told", "refused", "met"],
)
def test_a_failed_run_is_told_with_its_sentence(
    plant: Plant, instance: dg.DagsterInstance, error: Exception, sentence: str
) -> None:
    """Not with Dagster's 'Error occurred while executing op', which is around every error that is no Failure."""

    @dg.op
    def breaks() -> None:
        with told():
            raise error

    @dg.job
    def doomed() -> None:
        breaks()

    result = doomed.execute_in_process(instance=instance, raise_on_error=False)
    event = next(
        e for e in result.all_events if e.event_type_value == "RUN_FAILURE" or e.event_type_value == "PIPELINE_FAILURE"
    )
    with dg.build_run_status_sensor_context(
        sensor_name="run_failure", dagster_event=event, dagster_instance=instance, dagster_run=result.dagster_run
    ).for_run_failure() as context:
        runs.run_failure(context)
    last = json.loads((plant.settings.root / "alerts.ndjson").read_text().splitlines()[-1])
    assert last["what"] == "run_failure" and last["level"] == "error"
    assert last["sentence"] == f"doomed run {result.run_id} failed: {sentence}"


def started(instance: dg.DagsterInstance, pid: int) -> dg.DagsterRun:
    @dg.op
    def waits() -> None: ...

    @dg.job
    def endless() -> None:
        waits()

    run = instance.create_run_for_job(endless, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
    return run


def test_a_run_whose_process_is_gone_gives_its_slot_back(plant: Plant, instance: dg.DagsterInstance) -> None:
    """At the second look: a run between two states is left alone. One whose process lives is never touched."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = started(instance, gone.pid), started(instance, os.getpid())

    def status(run: dg.DagsterRun) -> dg.DagsterRunStatus:
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    first = runs.stranded_runs(context(instance))
    assert status(dead) is dg.DagsterRunStatus.STARTED and json.loads(first.cursor) == [dead.run_id]
    second = runs.stranded_runs(context(instance, first.cursor))
    assert status(dead) is dg.DagsterRunStatus.FAILURE and json.loads(second.cursor) == []
    assert status(alive) is dg.DagsterRunStatus.STARTED
