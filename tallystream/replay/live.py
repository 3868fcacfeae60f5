"""What a replay is compared with: one committed state of the warehouse, read in one query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from tallystream.errors import WarehouseError
from tallystream.replay.request import Key
from tallystream.settings import Settings
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.reach import Bounds
from tallystream.warehouse.read import listed, open_reader
from tallystream.warehouse.redrive import plan_of

MADE = (
    "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name IN ('redriven', 'promotions')"
)
# As they came: a replay from the archive has their columns, and not the bytes that are decoded once more.
RAW = """
    SELECT list(m) FROM (
        SELECT topic, partition, "offset", key, value FROM main.late_events
        SEMI JOIN ledger.redriven USING (topic, partition, "offset")
        UNION ALL
        SELECT topic, partition, "offset", key, value FROM main.dead_letters
        SEMI JOIN ledger.redriven USING (topic, partition, "offset")
    ) m
"""
# Late events too: they were met, and a redrive puts them into the views.
TIMES = """
    SELECT list(t) FROM (
        SELECT topic, min(low) AS low, max(high) AS high FROM (
            SELECT topic, min_event_time AS low, max_event_time AS high FROM ledger.commits
            UNION ALL SELECT topic, max_event_time, max_event_time FROM ledger.offsets
            UNION ALL SELECT topic, event_time, event_time FROM main.late_events
        ) GROUP BY topic HAVING low IS NOT NULL
    ) t
"""


@dataclass(frozen=True)
class Promoted:
    """Rows of a view that promotion `id` made by another definition, and that was not undone."""

    id: int
    view: str
    bounds: Bounds


@dataclass(frozen=True)
class Live:
    """Offsets, event times, watermarks, rules, promotions that stand, and the rows of views.

    `redriven`: the rows of ledger.redriven, `raw` their messages; None where nothing was ever redriven.
    """

    tallied: dict[Key, tuple[int, int]]
    times: dict[str, tuple[datetime, datetime]]
    watermarks: dict[str, datetime | None]
    rules: list[tuple[Any, ...]]
    redriven: pa.Table | None
    raw: pa.Table | None
    promoted: list[Promoted]
    rows: dict[str, pa.Table]

    def watermark_of(self, plan: ViewPlan) -> int | None:
        """The least over the view's topics, microseconds; None while one of them has none."""
        marks = [self.watermarks.get(t) for t in plan.topics]
        known = [m for m in marks if m is not None]
        if len(known) < len(marks):
            return None
        return (min(known) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def definitions(settings: Settings, comparing: bool) -> dict[str, tuple[str, str]]:
    """View -> (version, SQL) of those that are live.

    Raises:
        WarehouseError: offsets were moved by hand, so that nothing can be compared.
    """
    with open_reader(settings) as reader:
        found = reader.rows("SELECT name, version, sql FROM ledger.views WHERE status = 'live' ORDER BY name")[2]
        resets = reader.rows("SELECT count(*) FROM ledger.resets")[2][0][0]
    if resets and comparing:
        raise WarehouseError(
            "offsets of this warehouse were reset by hand (ledger.resets): the log read again would not give its rows; "
            "replay in mode sandbox, or rebuild the views"
        )
    return {name: (version, sql) for name, version, sql in found}


def kept_plans(found: Mapping[str, tuple[str, str]]) -> dict[str, ViewPlan]:
    """The plans of the definitions that the warehouse has.

    Raises:
        WarehouseError: this code would keep one of them otherwise.
    """
    plans = {}
    for name, (version, sql) in found.items():
        plans[name] = plan_of(name, sql)
        if plans[name].version != version:
            raise WarehouseError(f"view {name} was kept by another Tallystream; `tally run` rebuilds it, then replay")
    return plans


def event_times(settings: Settings) -> dict[str, tuple[datetime, datetime]]:
    """By topic the least and the greatest event time that the warehouse has met; a topic without events has none.

    Raises:
        WarehouseError: there is no warehouse.
    """
    with open_reader(settings) as reader:
        return _times(reader.rows(TIMES)[2][0][0] or [])


def read_live(settings: Settings, found: Mapping[str, tuple[str, str]], views: Sequence[str]) -> Live:
    """The state, with the rows of `views`; `found`: the definitions that they must have.

    Raises:
        WarehouseError: a view was built anew in between.
    """
    parts = {
        "offsets": "SELECT list(o) FROM (SELECT topic, partition, start_offset, next_offset FROM ledger.offsets WHERE retired_at IS NULL) o",
        "times": TIMES,
        "marks": "SELECT list(w) FROM (FROM ledger.watermarks) w",
        "rules": "SELECT list(r) FROM (FROM ledger.rules) r",
        "definitions": "SELECT list(d) FROM (SELECT name, version FROM ledger.views WHERE status = 'live') d",
    }
    parts |= {f"view {n}": f"SELECT list(v) FROM (FROM main.{quote(n)}) v" for n in views}
    with open_reader(settings) as reader:
        for (name,) in reader.rows(MADE)[2]:
            parts[name] = f"SELECT list(r) FROM (FROM ledger.{name}) r"
        if "redriven" in parts:
            parts["raw"] = RAW
        table = reader.arrow("SELECT " + ", ".join(f"({sql}) AS {quote(name)}" for name, sql in parts.items()))
    tables = {name: listed(table[name]) for name in table.column_names}
    versions = {d["name"]: d["version"] for d in tables["definitions"].to_pylist()}
    for name in views:
        if versions.get(name) != found[name][0]:
            raise WarehouseError(f"view {name} was built anew a moment ago; replay again")
    return Live(
        {(r["topic"], r["partition"]): (r["start_offset"], r["next_offset"]) for r in tables["offsets"].to_pylist()},
        _times(tables["times"].to_pylist()),
        {r["topic"]: r["watermark"] for r in tables["marks"].to_pylist()},
        [
            (r["topic"], r["partition"], r["from_offset"], r["lateness"], r["horizon"], r["max_ahead"])
            for r in tables["rules"].to_pylist()
        ],
        tables.get("redriven"),
        tables.get("raw"),
        _promoted(tables["promotions"].to_pylist(), versions) if "promotions" in tables else [],
        {name: tables[f"view {name}"] for name in views},
    )


def _promoted(rows: list[dict[str, Any]], versions: Mapping[str, str]) -> list[Promoted]:
    """Those of the definitions of now. One that amended rows by their own definition stands for nothing but the truth."""
    return [
        Promoted(
            r["id"], r["view"], (r["after_us"], r["before_us"] if r["before_us"] is not None else r.get("until_us"))
        )
        for r in rows
        if r["undone_at"] is None and versions.get(r["view"]) == r["version"] != r.get("made_by")
    ]


def _times(rows: list[dict[str, Any]]) -> dict[str, tuple[datetime, datetime]]:
    return {r["topic"]: (r["low"], r["high"]) for r in rows}
