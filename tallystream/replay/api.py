"""Replay, promote, undo, backfill: what the command line and the control plane call."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.errors import TallyError, WarehouseError
from tallystream.replay.diff import SCHEMA, compare, condition, region_of, write
from tallystream.replay.engine import Progress, Region, narrowed, open_sandbox, rules_of, run
from tallystream.replay.request import Key, ReplayRequest, resolve
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan, quote
from tallystream.warehouse.archive_read import FullHistory
from tallystream.warehouse.operate import promote_now, undo_now
from tallystream.warehouse.promote import Change, save_change
from tallystream.warehouse.read import Reader, open_reader
from tallystream.warehouse.redrive import plan_of
from tallystream.warehouse.redriven import TABLE, exists, seed

HAS_REDRIVEN = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name = 'redriven'"


@dataclass
class ReplayResult:
    """What a replay did; every field is JSON.

    `sandbox`: its DuckDB file. `views`: see `ViewDiff`, empty in mode sandbox. `promotion`: the id to undo it by;
    None when nothing was promoted.
    """

    mode: str
    sandbox: str
    messages: int
    ranges: list[dict[str, Any]]
    accounts: dict[str, dict[str, int]]
    views: list[dict[str, Any]] = field(default_factory=list)
    cells: int = 0
    diff: str | None = None
    promotion: int | None = None
    not_promoted: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Live:
    """One committed state of the warehouse: offsets, rules, redriven rows, definitions and the rows of views."""

    tallied: dict[Key, tuple[int, int]]
    rules: list[tuple[Any, ...]]
    redriven: pa.Table | None
    definitions: dict[str, tuple[str, str]]
    rows: dict[str, pa.Table]


def replay(settings: Settings, request: ReplayRequest, progress: Progress | None = None) -> ReplayResult:
    """Replays a range in a sandbox; compares it with the live views (diff), and swaps the difference in (promote).

    Raises:
        UsageError: the range does not exist.
        TallyError: the source cannot give it, or a promotion was refused; production is as it was.
    """
    live = _read_live(settings, rows=request.mode != "sandbox")
    spans = resolve(settings, request, live.tallied)
    plans = load_views(request.views_dir) if request.views_dir else _kept(live)
    comparing = request.mode != "sandbox"
    if comparing:
        plans = {n: p for n, p in plans.items() if n in live.rows and set(p.topics) & set(request.topics)}
    folder = _folder(settings)
    store = open_store(settings)
    con = open_sandbox(folder / "tally.duckdb")
    try:
        done = run(con, settings, store, request, spans, rules_of(live.rules), plans, comparing, progress)
        if comparing and live.redriven is not None and live.redriven.num_rows:
            _seed(con, settings, plans, live.redriven, FullHistory(settings, store))
        result = ReplayResult(
            request.mode,
            str(folder / "tally.duckdb"),
            done.read,
            [
                {"topic": t, "partition": p, "from_offset": s.first, "to_offset": s.last}
                for (t, p), s in sorted(spans.items())
                if s.last > s.first
            ],
            done.accounts,
        )
        if comparing:
            _compare(con, live, plans, done.regions, request, folder, result)
    except BaseException:
        con.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    con.close()
    if request.mode == "promote":
        promote(settings, result)
    return result


def promote(settings: Settings, result: ReplayResult) -> ReplayResult:
    """Swaps the rows that a diff found to differ into the warehouse, in one transaction of its writer.

    Raises:
        WarehouseError: the live rows are not those that were compared any more; nothing was changed.
    """
    if any(v["added"] or v["missing"] or v["changed"] for v in result.views):
        done = promote_now(settings, Path(result.sandbox).parent)
        result.promotion, result.not_promoted = done["id"], done["refused"]
    return result


def undo(settings: Settings, promotion: int) -> dict[str, Any]:
    """Puts back the rows that a promotion replaced.

    Raises:
        WarehouseError: there is no such promotion, it was undone, or its rows have changed since.
    """
    return undo_now(settings, promotion)


def backfill(
    settings: Settings,
    from_time: datetime,
    to_time: datetime,
    source: str = "archive",
    progress: Progress | None = None,
) -> ReplayResult:
    """Recomputes the windows within [from_time, to_time) by the definitions that the warehouse has, and promotes what differs.

    Raises:
        TallyError: as `replay`.
    """
    request = ReplayRequest(
        "promote", from_time=from_time, to_time=to_time, source="archive" if source == "archive" else "kafka"
    )
    return replay(settings, request, progress)


def _read_live(settings: Settings, rows: bool) -> _Live:
    with open_reader(settings) as reader:
        found = reader.rows("SELECT name, version, sql FROM ledger.views WHERE status = 'live' ORDER BY name")[2]
        definitions = {name: (version, sql) for name, version, sql in found}
        resets = reader.rows("SELECT count(*) FROM ledger.resets")[2][0][0]
        if resets and rows:
            raise WarehouseError(
                "offsets of this warehouse were reset by hand (ledger.resets): the log read again would not give its rows; "
                "replay in mode sandbox, or rebuild the views"
            )
        redriven = bool(reader.rows(HAS_REDRIVEN)[2][0][0])
        parts = {
            "offsets": "SELECT list(o) FROM (SELECT topic, partition, start_offset, next_offset FROM ledger.offsets) o",
            "rules": "SELECT list(r) FROM (FROM ledger.rules) r",
        }
        if redriven:
            parts["redriven"] = "SELECT list(r) FROM (FROM ledger.redriven) r"
        if rows:
            parts |= {f"view {n}": f"SELECT list(v) FROM (FROM main.{quote(n)}) v" for n in definitions}
        # One query, one committed state.
        table = reader.arrow("SELECT " + ", ".join(f"({sql}) AS {quote(name)}" for name, sql in parts.items()))
    tables = {name: _rows(table[name], reader) for name in table.column_names}
    tallied = {
        (r["topic"], r["partition"]): (r["start_offset"], r["next_offset"]) for r in tables["offsets"].to_pylist()
    }
    rules = [
        (r["topic"], r["partition"], r["from_offset"], r["lateness"], r["horizon"], r["max_ahead"])
        for r in tables["rules"].to_pylist()
    ]
    views = {name.removeprefix("view "): t for name, t in tables.items() if name.startswith("view ")}
    return _Live(tallied, rules, tables.get("redriven"), definitions, views)


def _rows(column: pa.ChunkedArray, _reader: Reader) -> pa.Table:
    """The rows of a list of structs in the one row that there is; NULL is no rows."""
    listed = column.combine_chunks()
    structs = listed.flatten()
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(structs)])


def _kept(live: _Live) -> dict[str, ViewPlan]:
    plans = {}
    for name, (version, sql) in live.definitions.items():
        plans[name] = plan_of(name, sql)
        if plans[name].version != version:
            raise WarehouseError(f"view {name} was kept by another Tallystream; `tally run` rebuilds it, then replay")
    return plans


def _seed(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    plans: Mapping[str, ViewPlan],
    redriven: pa.Table,
    history: FullHistory,
) -> None:
    """Late and dead rows that were put into the live views belong to the replayed ones too."""
    if not exists(con):
        con.execute(TABLE)
    con.register("live_redriven", redriven)
    con.execute("INSERT INTO ledger.redriven BY NAME FROM live_redriven")
    con.unregister("live_redriven")
    con.execute("BEGIN")
    seed(con, settings, plans.values(), history)
    con.execute("COMMIT")


def _compare(
    con: duckdb.DuckDBPyConnection,
    live: _Live,
    plans: Mapping[str, ViewPlan],
    regions: Mapping[str, Region],
    request: ReplayRequest,
    folder: Path,
    result: ReplayResult,
) -> None:
    parts, changes = [], []
    for name, plan in sorted(plans.items()):
        region = narrowed(region_of(plan, regions), request.event_times)
        told, cells = compare(con, plan, live.rows[name], region)
        result.views.append(told.as_dict())
        parts.append(cells)
        if told.differs:
            where = condition(plan, region)
            assert where is not None
            changes.append(Change(name, live.definitions[name][0], plan, region.after, region.before, where))
    result.cells = write(folder / "diff.parquet", parts).num_rows
    result.diff = str(folder / "diff.parquet")
    for change in changes:
        save_change(con, change, live.rows[change.view], folder)
    (folder / "result.json").write_text(json.dumps(result.as_dict(), default=str))


def cells_of(result: ReplayResult) -> pa.Table:
    """The changed cells: view, key (JSON), column, live, replayed, kind."""
    return pq.read_table(result.diff) if result.diff else SCHEMA.empty_table()


def _folder(settings: Settings) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = settings.root / "sandboxes" / f"{stamp}-{secrets.token_hex(3)}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise TallyError(f"the sandbox {path} cannot be made: {error}") from None
    return path
