"""Suites of Great Expectations as asset checks: of the live views from views.yaml, of the models from their own YAML."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import yaml

from pipelines.catalog import catalog, model_key, view_key
from pipelines.checks import gx
from pipelines.tally import Tally, told
from tallystream.errors import TallyError
from tallystream.models.build import rows_of
from tallystream.views.plan import ViewPlan, quote
from tallystream.warehouse.read import open_reader

SUITES = Path(__file__).with_name("views.yaml")
# A frame of a million rows takes a second or two to hold against a suite, and some hundred megabytes.
MOST = 500_000
DRAFT = [{"expect": "table_row_count_to_be_between", "min_value": 0}]


@cache
def view_suites() -> Mapping[str, list[dict[str, Any]]]:
    """The suite of each view; one without a suite gets a draft, so that its page says how many rows it has."""
    told: dict[str, list[dict[str, Any]]] = yaml.safe_load(SUITES.read_text(encoding="utf-8"))
    return {name: told.get(name, DRAFT) for name in catalog().views}


def suite_checks() -> list[dg.AssetChecksDefinition]:
    """`keys` (blocking) and `values` of each view and model: those of its expectations that there are."""
    found = []
    for name, plan in catalog().views.items():
        found += _checks(name, view_key(name), view_suites()[name], _view_rows(plan))
    for name, model in catalog().models.models.items():
        found += _checks(name, model_key(name), list(model.expectations), _model_rows(name))
    return found


def _checks(
    name: str, key: dg.AssetKey, suite: list[dict[str, Any]], rows: Callable[[Tally], pa.Table]
) -> list[dg.AssetChecksDefinition]:
    parts = {"keys": [e for e in suite if e.get("blocking")], "values": [e for e in suite if not e.get("blocking")]}
    return [_check(name, key, part, chosen, rows) for part, chosen in parts.items() if chosen]


def _check(
    name: str, key: dg.AssetKey, part: str, suite: list[dict[str, Any]], rows: Callable[[Tally], pa.Table]
) -> dg.AssetChecksDefinition:
    blocking = part == "keys"

    @dg.asset_check(
        asset=key,
        name=part,
        blocking=blocking,
        description=f"Great Expectations: {', '.join(str(e['expect']) for e in suite)}.",
        op_tags={"tally/suite": name},
    )
    def suite_(context: dg.AssetCheckExecutionContext, tally: Tally) -> dg.AssetCheckResult:
        with told():
            table = rows(tally)
            found = gx.validate(f"{name}.{part}", table, suite, tally.settings().root / "quality")
        for sentence in found.broken:
            context.log.error(sentence)
        metadata: dict[str, Any] = {
            "rows": found.rows,
            "held": found.held,
            "broken": dg.MetadataValue.json(found.broken),
        }
        if found.page is not None:
            metadata["page"] = dg.MetadataValue.path(found.page)
        return dg.AssetCheckResult(
            passed=found.passed,
            severity=dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN,
            description="; ".join(found.broken) or f"{found.held} expectations hold for {found.rows:,} rows",
            metadata=metadata,
        )

    return suite_


def _view_rows(plan: ViewPlan) -> Callable[[Tally], pa.Table]:
    """The newest rows of a view; all where they are not too many."""
    newest = next((c for c in ("window_start", "order_time") if c in plan.types), next(iter(plan.types)))
    query = f"SELECT * FROM {quote(plan.name)} ORDER BY {quote(newest)} DESC LIMIT {MOST}"

    def rows(tally: Tally) -> pa.Table:
        with open_reader(tally.settings()) as reader:
            return plain(reader.arrow(query))

    return rows


def _model_rows(name: str) -> Callable[[Tally], pa.Table]:
    def rows(tally: Tally) -> pa.Table:
        models = catalog().models
        return plain(
            rows_of(tally.settings(), tally.store(), models, name, f"SELECT * FROM ({models.query(name)}) LIMIT {MOST}")
        )

    return rows


def plain(table: pa.Table) -> pa.Table:
    """HUGEINT comes as decimal128(38, 0), which pandas would hold as objects: 64-bit integers instead.

    Raises:
        TallyError: a value is beyond 64 bits.
    """
    for i, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            try:
                table = table.set_column(i, field.name, table[i].cast(pa.int64()))
            except pa.ArrowInvalid:
                raise TallyError(f"{field.name} has values beyond 64 bits, which the suites cannot hold") from None
    return table
