"""What the clock starts, and when; times are UTC."""

from typing import Any

import dagster as dg

from pipelines.assets.backfill import backfill_yesterday
from pipelines.jobs import upkeep

ON = dg.DefaultScheduleStatus.RUNNING
UTC = {"execution_timezone": "UTC", "default_status": ON}

SCHEDULES: list[Any] = [
    # Each hour is archived two minutes after its end: the partition of the hour before.
    dg.build_schedule_from_partitioned_job(upkeep.archive, minute_of_hour=2, default_status=ON),
    dg.ScheduleDefinition(job=upkeep.snapshot, cron_schedule="*/15 * * * *", **UTC),
    dg.ScheduleDefinition(job=upkeep.compact, cron_schedule="20 * * * *", **UTC),
    dg.ScheduleDefinition(job=upkeep.quality, cron_schedule="40 * * * *", **UTC),
    dg.ScheduleDefinition(job=upkeep.restore_drill, cron_schedule="35 4 * * *", **UTC),
    backfill_yesterday,
]
