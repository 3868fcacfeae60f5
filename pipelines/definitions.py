"""Everything that Dagster knows of Tallystream: read this first, then the folder of what you look for.

    topics -> live views -> staging -> marts          assets/, checks/
       |          |-> snapshot -> restore drill
       '-> archive                                    jobs/, schedules.py, sensors/

Plain functions of `tallystream` do the work; the code here says when, with what form, and what is shown.
"""

import dagster as dg

from pipelines.assets import backfill
from pipelines.assets.archive import archived
from pipelines.assets.live import topic_specs, view_specs
from pipelines.assets.models import model_assets
from pipelines.assets.recovery import restore_drill, snapshot
from pipelines.checks.books import topic_checks, view_checks
from pipelines.checks.suites import suite_checks
from pipelines.jobs import upkeep
from pipelines.jobs.replay import replay
from pipelines.schedules import SCHEDULES
from pipelines.sensors import alerts, runs
from pipelines.sensors.observe import observe_views
from pipelines.tally import Tally

# The models' clock: makes staging and marts by their automation conditions, and nothing else.
automation = dg.AutomationConditionSensorDefinition(
    "make_models",
    target=dg.AssetSelection.groups("staging", "marts"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=60,
)

defs = dg.Definitions(
    assets=[*topic_specs(), *view_specs(), *model_assets(), archived, backfill.backfill, snapshot, restore_drill],
    asset_checks=[*topic_checks(), *view_checks(), *suite_checks()],
    jobs=[replay, backfill.job, upkeep.archive, upkeep.compact, upkeep.snapshot, upkeep.restore_drill, upkeep.quality],
    schedules=SCHEDULES,
    sensors=[
        observe_views,
        alerts.lag,
        alerts.stream_down,
        alerts.dead_letter_spike,
        runs.run_failure,
        runs.stranded_runs,
        automation,
    ],
    resources={"tally": Tally()},
    # One process a run: a step is a few seconds, a process for each would take longer to import dagster.
    executor=dg.in_process_executor,
)
