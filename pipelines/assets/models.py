"""Models as assets: staging is run to prove that it can be, marts become Parquet tables under TALLY_HOME/models."""

import time
from datetime import timedelta

import dagster as dg

from pipelines.catalog import catalog, model_column_lineage, model_key, relation_key, schema_of
from pipelines.tally import Tally, seconds, told
from tallystream.models.build import build
from tallystream.models.load import Model

# Reports are read by people: four times an hour is as fresh as they can read, and 96 runs a day.
CRON = "*/15 * * * *"
REPORTED = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=2), warn_window=timedelta(minutes=40))


def model_assets() -> list[dg.AssetsDefinition]:
    """One for each model that everything it reads is here for."""
    return [_asset(model) for model in catalog().models.models.values()]


def _asset(model: Model) -> dg.AssetsDefinition:
    @dg.asset(
        key=model_key(model.name),
        deps=[relation_key(r) for r in sorted(model.reads)],
        description=f"{model.description}\n\n```sql\n{model.sql}\n```",
        group_name=model.layer,
        kinds={"duckdb", "view" if model.materialized == "view" else "parquet"},
        owners=[model.owner],
        metadata={
            "dagster/column_schema": schema_of(catalog().types[model.name], dict(model.columns)),
            "dagster/column_lineage": model_column_lineage(model.name),
            "grain": ", ".join(model.grain),
        },
        automation_condition=dg.AutomationCondition.cron_tick_passed(CRON) & ~dg.AutomationCondition.in_progress(),
        freshness_policy=REPORTED,
    )
    def made(tally: Tally) -> dg.MaterializeResult:
        began = time.monotonic()
        with told():
            done = build(tally.settings(), tally.store(), catalog().models, model.name)
        metadata: dict[str, object] = {"dagster/row_count": done.rows, "seconds": seconds(time.monotonic() - began)}
        if done.path is not None:
            metadata |= {"file": dg.MetadataValue.path(done.path), "bytes": done.size}
        return dg.MaterializeResult(metadata=metadata)

    return made
