"""The runs of the control plane itself: failures are told, and those whose process is gone are ended."""

import json
import os
import re

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from pipelines.sensors.tell import tell
from pipelines.tally import Tally
from tallystream import settings as environment

ALIVE = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
PID = re.compile(r"\(pid: (\d+)\)")


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Tells of failed runs, each once.",
)
def run_failure(context: dg.RunFailureSensorContext) -> None:
    """One line a failed run, with the sentence of its first failed step."""
    steps = context.get_step_failure_events()
    error = steps[0].step_failure_data.error if steps else None
    failure = steps[0].step_failure_data.user_failure_data if steps else None
    told = (failure.description if failure else None) or _first_cause(error) or context.failure_event.message
    run = context.dagster_run
    tell(environment.load(), "run_failure", "error", f"{run.job_name} run {run.run_id} failed: {told}", context.log)


def _first_cause(error: SerializableErrorInfo | None) -> str | None:
    """What went wrong at first: Dagster's own 'Error occurred while executing op' is around it, and says nothing."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else None


@dg.sensor(
    name="stranded_runs",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose process died together with Dagster: they would hold their pool's slot for hours.",
)
def stranded_runs(context: dg.SensorEvaluationContext, tally: Tally) -> dg.SensorResult:
    """A code server ends the runs it started when their process dies; when it dies too, nobody does.

    Two looks are needed, a minute apart, for a run that is just being started or ended. The cursor has the suspects.
    """
    suspects: list[str] = json.loads(context.cursor or "[]")
    gone = [run for run in context.instance.get_runs(dg.RunsFilter(statuses=ALIVE)) if _dead(context.instance, run)]
    for run in gone:
        if run.run_id in suspects:
            context.instance.report_run_failed(run, "its process is gone; the slot of its pool is free again")
            tell(
                tally.settings(),
                "stranded_runs",
                "error",
                f"{run.job_name} run {run.run_id}: its process is gone",
                context.log,
            )
    return dg.SensorResult(cursor=json.dumps(sorted(run.run_id for run in gone if run.run_id not in suspects)))


def _dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process that said it started the run lives no more; unknown is alive."""
    logs = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    pids = [int(m[1]) for m in (PID.search(log.message or log.user_message) for log in logs) if m]
    if not pids:
        return False
    try:
        os.kill(pids[0], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
