"""Great Expectations over Arrow -> pandas frames: its SQL path fails with DuckDB.

Imported inside `validate` and nowhere else: the import takes 3 to 12 s, and a code server that pays it at its start
looks dead. Its usage statistics and progress bars are off before it is imported, for it reads them once.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

Expectation = Mapping[str, Any]
# Ours, beside those of Great Expectations: whether a failure stops the models downstream.
OWN = {"expect", "blocking"}


@dataclass(frozen=True)
class Found:
    """What a suite found: expectations held and broken (one sentence each), rows looked at, the result page."""

    passed: bool
    held: int
    broken: list[str]
    rows: int
    page: Path | None


def validate(name: str, rows: pa.Table, expectations: Sequence[Expectation], pages: Path | None) -> Found:
    """Holds a table against a suite; writes a page of the result into the folder `pages`.

    Raises:
        ValueError: an expectation is not one of Great Expectations, or its arguments are wrong.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    suite = ExpectationSuite(name=name)
    for e in expectations:
        told = ExpectationConfiguration(
            type=f"expect_{e['expect']}", kwargs={k: v for k, v in e.items() if k not in OWN}
        )
        try:
            suite.add_expectation_configuration(told)
        except Exception as error:
            raise ValueError(f"{name}: {told.type} is no expectation that can be held: {error}") from error
    source = context.data_sources.add_pandas("arrow").add_dataframe_asset(name)
    batch = source.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": rows.to_pandas()})
    result = batch.validate(suite)
    broken = [_sentence(r) for r in result.results if not r.success]
    page = None if pages is None else _page(result, pages / f"{name}.html")
    return Found(bool(result.success), len(result.results) - len(broken), broken, rows.num_rows, page)


def _sentence(result: Any) -> str:
    told = result.expectation_config
    arguments = ", ".join(f"{k}={v}" for k, v in told.kwargs.items() if k != "batch_id")
    if result.exception_info and result.exception_info.get("raised_exception"):
        return f"{told.type}({arguments}) could not be held: {result.exception_info.get('exception_message')}"
    unexpected, examples = result.result.get("unexpected_count"), result.result.get("partial_unexpected_list")
    if unexpected is None:
        return f"{told.type}({arguments}): found {result.result.get('observed_value')}"
    return f"{told.type}({arguments}): {unexpected:,} rows, such as {list(examples or [])[:3]}"


def _page(result: Any, path: Path) -> Path:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_text(DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result)), encoding="utf-8")
    scratch.replace(path)
    return path
