"""All definitions as one text: what changes in Dagster shows in a review. `python -m tests.pipelines.test_definitions` renews it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from pipelines.catalog import catalog, view_key
from pipelines.definitions import defs
from tallystream.settings import PROJECT, TOPICS
from tallystream.topics.contracts import contract

KEPT = Path(__file__).with_name("definitions.json")
JOBS = {"replay", "backfill", "archive", "compact", "snapshot", "restore_drill", "quality"}


def described() -> dict[str, Any]:
    """Assets with columns and freshness, checks, jobs with their forms, schedules, sensors."""
    graph = defs.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys(), key=str):
        node = graph.get(key)
        schema = node.metadata.get("dagster/column_schema")
        assets[key.to_user_string()] = {
            "deps": sorted(d.to_user_string() for d in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(k.removeprefix("dagster/kind/") for k in node.tags if k.startswith("dagster/kind/")),
            "owners": sorted(node.owners),
            "partitioned": node.is_partitioned,
            "external": node.is_external,
            "automation": str(node.automation_condition.get_label() or "condition")
            if node.automation_condition
            else None,
            "freshness": None if node.freshness_policy is None else freshness(node.freshness_policy),
            "pools": sorted(node.pools or []),
            "checks": sorted(f"{c.name}{' (blocking)' if graph.get(c).blocking else ''}" for c in node.check_keys),
            "columns": None if schema is None else {c.name: f"{c.type}: {c.description}" for c in schema.columns},
        }
    repository = defs.get_repository_def()
    return {
        "assets": assets,
        "jobs": {
            j.name: forms(j)
            for j in sorted(repository.get_all_jobs(), key=lambda j: j.name)
            if not j.name.startswith("__")
        },
        "schedules": {
            s.name: {
                "cron": s.cron_schedule,
                "job": s.job_name,
                "timezone": s.execution_timezone,
                "on": s.default_status.value,
            }
            for s in sorted(repository.schedule_defs, key=lambda s: s.name)
        },
        "sensors": {
            s.name: {"seconds": s.minimum_interval_seconds, "on": s.default_status.value, "type": s.sensor_type.value}
            for s in sorted(repository.sensor_defs, key=lambda s: s.name)
        },
    }


def freshness(policy: Any) -> str:
    """When it warns and when it fails, without an event."""
    windows = (policy.warn_window, policy.fail_window)
    return "warns after {}, fails after {}".format(*(w and w.to_timedelta() for w in windows))


def forms(job: dg.JobDefinition) -> dict[str, Any]:
    """Step -> field -> what the launchpad shows of it."""
    found = {}
    for node in job.nodes:
        kind = getattr(node.definition, "config_schema", None)
        fields = getattr(kind.config_type, "fields", {}) if kind is not None else {}
        found[node.name] = {
            name: {
                "required": field.is_required,
                "default": json.loads(field.default_value_as_json_str) if field.default_provided else None,
                "description": field.description,
            }
            for name, field in sorted(fields.items())
        }
    return {name: fields for name, fields in found.items() if fields}


def test_definitions_are_as_kept() -> None:
    assert described() == json.loads(KEPT.read_text())


def test_the_jobs_have_the_names_that_others_call() -> None:
    assert set(described()["jobs"]) == JOBS


def test_every_view_is_an_external_asset_with_checks_schema_and_lineage() -> None:
    graph = defs.resolve_asset_graph()
    for name, plan in catalog().views.items():
        node = graph.get(view_key(name))
        assert node.is_external and node.owners and {"dagster/kind/bytewax", "dagster/kind/duckdb"} <= set(node.tags)
        assert {"freshness", "parity"} < {c.name for c in node.check_keys}
        assert {c.name for c in node.check_keys} & {"keys", "values"}
        schema = node.metadata["dagster/column_schema"]
        assert [c.name for c in schema.columns][: len(plan.types)] == list(plan.types)
        lineage = node.metadata["dagster/column_lineage"].deps_by_column
        assert set(lineage) == {c.name for c in schema.columns}
        assert {d.asset_key for deps in lineage.values() for d in deps} <= node.parent_keys
        assert node.freshness_policy is not None
        assert all(c.description for c in schema.columns), name


def test_every_archived_column_is_of_the_topic_s_and_described() -> None:
    graph = defs.resolve_asset_graph()
    for topic in TOPICS:
        node, columns = graph.get(dg.AssetKey(["archive", topic])), contract(topic).arrow.names
        lineage = node.metadata["dagster/column_lineage"].deps_by_column
        assert {c: [d.column_name for d in deps] for c, deps in lineage.items()} == {c: [c] for c in columns}
        assert {d.asset_key for deps in lineage.values() for d in deps} <= node.parent_keys
        for schema in (s.metadata["dagster/column_schema"] for s in (node, graph.get(dg.AssetKey(["topics", topic])))):
            assert [c.name for c in schema.columns][-len(columns) :] == columns
            assert all(c.description for c in schema.columns)


def test_every_model_is_an_asset_with_schema_and_lineage() -> None:
    graph = defs.resolve_asset_graph()
    for name, model in catalog().models.models.items():
        node = graph.get(dg.AssetKey([model.layer, name]))
        assert [c.name for c in node.metadata["dagster/column_schema"].columns] == list(model.columns)
        lineage = node.metadata["dagster/column_lineage"].deps_by_column
        assert {d.asset_key for deps in lineage.values() for d in deps} <= node.parent_keys
        assert node.automation_condition is not None


def test_the_instance_is_without_telemetry_and_with_retention() -> None:
    told = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    assert told["telemetry"] == {"enabled": False}
    assert all(told["retention"][kind]["purge_after_days"] for kind in ("schedule", "sensor", "auto_materialize"))
    assert told["concurrency"]["pools"] == {"granularity": "run", "default_limit": 1}
    from dagster._core.instance.config import dagster_instance_config

    found, _ = dagster_instance_config(str(PROJECT))
    assert found["run_monitoring"]["enabled"]


def test_the_workspace_is_the_one_of_this_project() -> None:
    told = yaml.safe_load((PROJECT / "workspace.yaml").read_text())
    assert told["load_from"][0]["python_module"]["module_name"] == "pipelines.definitions"
    # Either would override workspace.yaml.
    assert "[tool.dagster]" not in (project := (PROJECT / "pyproject.toml").read_text()) and "[tool.dg]" not in project


def test_the_walls_stand_and_the_command_line_stays_quick() -> None:
    """The engine imports neither dagster nor Great Expectations; not even the definitions import the latter."""
    code = "import sys, {0}; sys.exit(any(m.split('.')[0] in ({1}) for m in sys.modules))"
    for module, forbidden in (
        ("tallystream.cli.up, tallystream.cli.main", "'dagster', 'pipelines'"),
        ("pipelines.definitions", "'great_expectations',"),
    ):
        assert subprocess.run([sys.executable, "-c", code.format(module, forbidden)], cwd=PROJECT).returncode == 0
    for path in (PROJECT / "tallystream").rglob("*.py"):
        assert "import dagster" not in path.read_text() and "from pipelines" not in path.read_text(), path


if __name__ == "__main__":
    KEPT.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n")
