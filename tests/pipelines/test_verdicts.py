"""What the checks say of books and volumes, and which reports are kept."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from pipelines.catalog import view_key
from pipelines.checks.books import judge_conservation, judge_volume
from pipelines.jobs import upkeep
from pipelines.tally import now

# Of the control plane, not of the broker: once is enough.
pytestmark = pytest.mark.embedded


def test_books_that_do_not_balance_fail() -> None:
    good = {
        "partition": 0,
        "consumed": 10,
        "applied": 6,
        "duplicate": 1,
        "late": 2,
        "dead": 1,
        "shed": 0,
        "stretch": 12,
        "late_rows": 2,
        "dead_rows": 1,
    }
    assert judge_conservation("orders", [good]).passed
    for wrong in ({"applied": 5}, {"late_rows": 1}, {"dead_rows": 2}, {"stretch": 9}):
        verdict = judge_conservation("orders", [{**good, **wrong}])
        assert verdict.level == "error" and "orders/0" in verdict.sentence


def test_a_volume_is_unusual_against_its_own_history() -> None:
    assert judge_volume("orders", None, None, 0).passed and judge_volume("orders", 5, 1000.0, 2).passed
    assert judge_volume("orders", 900, 1000.0, 9).passed
    assert (
        judge_volume("orders", 50, 1000.0, 9).level == "warn"
        and judge_volume("orders", 50_000, 1000.0, 9).level == "warn"
    )


def test_old_reports_of_sensors_are_forgotten_and_nothing_else(tmp_path: Any) -> None:
    """On SQLite, as `tally up` has it: the runless events before a time, from both of its files."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as kept:
        key = view_key("order_status")

        @dg.asset
        def made() -> None: ...

        for n in range(3):
            kept.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"n": n}))
        assert dg.materialize([made], instance=kept).success
        between = now()
        kept.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"n": 3}))
        assert upkeep.forget_reports(kept, between) == 3
        left = kept.fetch_materializations(key, limit=10).records
        assert [r.asset_materialization.metadata["n"].value for r in left] == [3]
        assert len(kept.fetch_materializations(dg.AssetKey("made"), limit=10).records) == 1
        assert len(kept.all_logs("")) == 1
        assert upkeep.forget_reports(kept, between) == 0
