"""Backfills: hours of event time, their late events brought in, recomputed from the archive; what differs is promoted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from pipelines.catalog import archive_key
from pipelines.jobs.replay import table
from pipelines.tally import HOURS, REWRITE, Tally, still_wanted, told
from tallystream.errors import TallyError
from tallystream.replay.api import ReplayResult
from tallystream.replay.backfill import backfill as make_anew
from tallystream.replay.live import event_times
from tallystream.settings import TOPICS

KEY = dg.AssetKey(["recovery", "backfill"])
# What a redrive leaves to be redriven again; see `Summary`.
LEFT = ("undecodable", "ahead", "waiting", "unproven", "settled")


class BackfillConfig(dg.Config):  # type: ignore[misc]
    """What belongs to the hours."""

    late_events: bool = Field(
        True,
        description="Redrive the late events of these hours first, each once; without them the verdicts of the log stand.",
    )


def _check(name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=KEY, description=description)


@dg.asset(
    key=KEY,
    deps=[archive_key(topic) for topic in TOPICS],
    partitions_def=HOURS,
    # A range of hours is one run: each run reads the archive from its beginning, for the judge's memory.
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="recovery",
    kinds={"duckdb"},
    owners=["team:streaming"],
    pool=REWRITE,
    check_specs=[
        _check("what_differs_is_promoted", "No view differs whose rows could not be swapped."),
        _check(
            "every_view_is_compared",
            "No view was left out, and no window because somebody promoted another definition.",
        ),
        _check("late_events_are_in", "No late event of these hours stayed outside for want of proof, or of time."),
    ],
)
def backfill(context: dg.AssetExecutionContext, config: BackfillConfig, tally: Tally) -> dg.MaterializeResult:
    """Windows of these hours, with their late events, made anew by the definitions that the warehouse has, and swapped in where they differ.

    Late events are redriven first, exactly once, as `tally redrive late` does; the recomputation has them too. A partition
    is green when all of its windows are as the log and the redriven events say.
    """
    window = context.partition_time_window
    with told():
        done = make_anew(
            tally.settings(),
            _utc(window.start),
            _utc(window.end),
            late=config.late_events,
            progress=lambda *_: still_wanted(),
            permit=still_wanted,
        )
    metadata: dict[str, Any] = {
        "messages": done.messages,
        "changed_cells": done.cells,
        "views": table(done.views),
        "promotion": "none" if done.promotion is None else str(done.promotion),
        "not_promoted": dg.MetadataValue.json(done.not_promoted),
    }
    if done.late is not None:
        metadata |= {"late_events": sum(done.late.values()), "late_events_brought_in": done.late["applied"]}
    return dg.MaterializeResult(metadata=metadata, check_results=judged(done))


def judged(done: ReplayResult) -> list[dg.AssetCheckResult]:
    """A partition that was made and is not right must not look as one that is."""
    not_seen = {v["view"]: v["left_out"] for v in done.views if v["left_out"]}
    for v in done.views:
        if v["spared"]:
            numbers = " and ".join(str(n) for n in v["promotions"])
            not_seen[v["view"]] = (
                f"{v['spared']:,} rows are as promotion {numbers} made them: put its definition into sql/views, or "
                "`tally replay --undo` it"
            )
    late = {} if done.late is None else {name: done.late[name] for name in LEFT if done.late[name]}
    return [
        _result(
            "what_differs_is_promoted", done.not_promoted, dg.AssetCheckSeverity.ERROR, "all that differed was swapped"
        ),
        _result("every_view_is_compared", not_seen, dg.AssetCheckSeverity.WARN, f"{len(done.views)} views compared"),
        _result(
            "late_events_are_in",
            {name: f"{n:,} late events" for name, n in late.items()},
            dg.AssetCheckSeverity.WARN,
            "not asked for" if done.late is None else "all that can be brought in are in the views",
        ),
    ]


def _result(name: str, problems: dict[str, str], bad: dg.AssetCheckSeverity, good: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=not problems,
        severity=bad,
        description="; ".join(f"{what}: {why}" for what, why in sorted(problems.items())) or good,
        metadata={"names": dg.MetadataValue.json(sorted(problems))},
    )


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


job = dg.define_asset_job(
    "backfill",
    selection=dg.AssetSelection.assets(backfill),
    description="Brings the late events of a range of hours in, recomputes its windows from the archive, and promotes what differs.",
)


@dg.schedule(
    job=job,
    cron_schedule="10 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Yesterday's hours with their late events, each night, in one run.",
)
def backfill_yesterday(context: dg.ScheduleEvaluationContext, tally: Tally) -> dg.RunRequest | dg.SkipReason:
    """Three hours after midnight: what is late has come, and the archive has it. A day without an event is not asked for."""
    day = context.scheduled_execution_time.astimezone(UTC).replace(hour=0, minute=0) - timedelta(days=1)
    first, last = day, day + timedelta(hours=23)
    if _is_empty(tally, _utc(day)):
        return dg.SkipReason(f"no event of {day:%Y-%m-%d} was met")
    return dg.RunRequest(
        run_key=f"{day:%Y-%m-%d}",
        tags={
            "dagster/asset_partition_range_start": f"{first:%Y-%m-%d-%H:00}",
            "dagster/asset_partition_range_end": f"{last:%Y-%m-%d-%H:00}",
        },
    )


def _is_empty(tally: Tally, day: datetime) -> bool:
    """Whether nothing that was tallied is of a day; what cannot be known, the run finds out and says."""
    try:
        times = event_times(tally.settings())
    except TallyError:
        return False
    return not any(low < day + timedelta(days=1) and high >= day for low, high in times.values())
