"""A job run in the process of the test, and what of its events one looks at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from pipelines.definitions import defs

SNAPSHOT = dg.AssetKey(["recovery", "snapshot"])


def run(job: str, instance: dg.DagsterInstance, **kwargs: Any) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **kwargs)


def facts(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    """The metadata of an asset's materialization."""
    events = [e for e in result.all_events if e.event_type_value == "ASSET_MATERIALIZATION" and e.asset_key == key]
    found = [e.materialization for e in events]
    assert len(found) == 1, [str(m.asset_key) for m in found]
    return {k: v.value for k, v in found[0].metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    return {f"{e.asset_key.to_user_string()}:{e.check_name}": e for e in result.get_asset_check_evaluations()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    told = [e.event_specific_data.user_failure_data for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    assert len(told) == 1 and told[0] is not None, "the run failed without a sentence for a person"
    return str(told[0].description)


def hour(ago: int = 0) -> str:
    return (datetime.now(UTC) - timedelta(hours=ago)).strftime("%Y-%m-%d-%H:00")
