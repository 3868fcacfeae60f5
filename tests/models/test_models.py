"""The models: their cases hold, a wrong model or case is found, and what cannot be a model is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tallystream.models.cases import Case, column_types, load_cases, problems
from tallystream.models.lineage import model_lineage, view_lineage
from tallystream.models.load import MODELS, ModelError, Models, load_models
from tallystream.views.loader import load_views

HERE = Path(__file__).parent
CASES = load_cases(HERE)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(load_views())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.model}: {c.name}")
def test_case(models: Models, case: Case) -> None:
    if case.model in models.missing:
        pytest.skip(f"{case.model} reads {', '.join(models.missing[case.model])}, a view that is not kept here")
    assert problems(models, case) == []


def test_every_model_has_a_case(models: Models) -> None:
    assert {m.stem for m in MODELS.rglob("*.sql")} == {c.model for c in CASES}


def test_a_planted_bug_fails_its_case(models: Models) -> None:
    """Negative control: with views counted as carts, the funnel's case tells the rows apart."""
    good = models.models["conversion_funnel_by_hour"]
    bad = replace(good, sql=good.sql.replace("event_type = 'cart'", "event_type = 'view'"))
    assert bad.sql != good.sql
    broken = Models({**models.models, good.name: bad}, models.sources, models.missing)
    case = next(c for c in CASES if c.model == good.name)
    told = problems(broken, case)
    assert told and any(t.startswith("missing:") for t in told) and any(t.startswith("too many:") for t in told)


def test_the_yaml_tells_the_columns_of_the_sql(models: Models) -> None:
    types = column_types(models)
    for name, model in models.models.items():
        assert list(types[name]) == list(model.columns)
        assert set(model.grain) <= set(types[name])
    good = models.models["stg_orders"]
    bad = replace(good, columns={**good.columns, "colour": "?"})
    with pytest.raises(ModelError, match="colour"):
        column_types(Models({**models.models, good.name: bad}, models.sources, models.missing))


def test_lineage(models: Models) -> None:
    types = column_types(models)
    funnel = model_lineage(models, types, "conversion_funnel_by_hour")
    assert funnel["views"] == [("stg_clicks_hourly", "clicks"), ("stg_clicks_hourly", "event_type")]
    assert funnel["paid"] == [("stg_orders", "is_paid")]
    lines = model_lineage(models, types, "stg_order_lines")
    assert lines["revenue_cents"] == [("archive.orders", "items")]
    views = load_views()
    revenue = view_lineage(views["revenue_per_minute"])
    assert revenue["revenue_cents"] == [("orders", "total_cents")]
    assert revenue["window_start"] == [("orders", "event_time")]
    assert revenue["orders"] == []
    attributed = view_lineage(views["order_attribution"])
    assert attributed["order_id"] == [("orders", "order_id")]
    assert attributed["click_type"] == [("clicks", "event_time"), ("clicks", "event_type"), ("orders", "event_time")]
    # Through a relation over both topics: a click's user_id, an order's customer_id.
    assert view_lineage(views["sessions"])["user_id"] == [("clicks", "user_id"), ("orders", "customer_id")]


def folder(at: Path, models: dict[str, str]) -> Path:
    for layer in ("staging", "marts"):
        (at / layer).mkdir(parents=True)
    for name, sql in models.items():
        (at / "staging" / f"{name}.sql").write_text(sql)
        (at / "staging" / f"{name}.yaml").write_text(
            "{owner: 'team:a', materialized: view, grain: [a], columns: {a: one}}"
        )
    return at


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"one": "SELECT a FROM two", "two": "SELECT a FROM one"}, "circle"),
        ({"one": "DELETE FROM two"}, "one SELECT"),
        ({"one": "SELECT 1 AS a; SELECT 2 AS a"}, "one SELECT"),
        ({"one": "SELECT FROM WHERE"}, "one.sql"),
        ({"revenue_per_minute": "SELECT 1 AS a"}, "taken"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, files: dict[str, str], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load_models(load_views(), folder(tmp_path, files))


def test_a_model_over_a_view_that_is_not_kept_is_left_out_with_its_readers(tmp_path: Path) -> None:
    found = load_models(
        load_views(), folder(tmp_path, {"a": "SELECT a FROM nowhere", "b": "SELECT a FROM a", "c": "SELECT 1 AS a"})
    )
    assert list(found.models) == ["c"]
    assert found.missing == {"a": ("nowhere",), "b": ("a",)}
