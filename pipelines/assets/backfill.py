"""Backfills: hours of event time, recomputed from the archive; what differs is promoted."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from pipelines.catalog import archive_key
from pipelines.jobs.replay import table
from pipelines.tally import HOURS, REWRITE, Tally, told
from tallystream.replay import api
from tallystream.settings import TOPICS


@dg.asset(
    key=["recovery", "backfill"],
    deps=[archive_key(topic) for topic in TOPICS],
    partitions_def=HOURS,
    # A range of hours is one run: each run reads the archive from its beginning, for the judge's memory.
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="recovery",
    kinds={"duckdb"},
    owners=["team:streaming"],
    pool=REWRITE,
)
def backfill(context: dg.AssetExecutionContext, tally: Tally) -> dg.MaterializeResult:
    """Windows of these hours, made anew by the definitions that the warehouse has, and swapped in where they differ."""
    window = context.partition_time_window
    with told():
        done = api.backfill(tally.settings(), _utc(window.start), _utc(window.end))
    return dg.MaterializeResult(
        metadata={
            "messages": done.messages,
            "changed_cells": done.cells,
            "views": table(done.views),
            "promotion": "none" if done.promotion is None else str(done.promotion),
            "not_promoted": dg.MetadataValue.json(done.not_promoted),
        }
    )


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


job = dg.define_asset_job(
    "backfill",
    selection=dg.AssetSelection.assets(backfill),
    description="Recomputes the windows of a range of hours from the archive, and promotes what differs.",
)


@dg.schedule(
    job=job,
    cron_schedule="10 3 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Yesterday's hours, each night, in one run.",
)
def backfill_yesterday(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Three hours after midnight: what may be late has come, and the archive has it."""
    day = context.scheduled_execution_time.astimezone(UTC).replace(hour=0, minute=0) - timedelta(days=1)
    first, last = day, day + timedelta(hours=23)
    return dg.RunRequest(
        run_key=f"{day:%Y-%m-%d}",
        tags={
            "dagster/asset_partition_range_start": f"{first:%Y-%m-%d-%H:00}",
            "dagster/asset_partition_range_end": f"{last:%Y-%m-%d-%H:00}",
        },
    )
