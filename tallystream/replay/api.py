"""Replay, promote, undo, backfill: what the command line and the control plane call."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.errors import TallyError, WarehouseError
from tallystream.replay.diff import SCHEMA, ViewDiff, compare, region_of, write
from tallystream.replay.engine import Progress, Region, narrowed, open_sandbox, run
from tallystream.replay.request import Key, ReplayRequest, Source, resolve
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics.rule_history import histories
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan, quote
from tallystream.warehouse.archive_read import FullHistory
from tallystream.warehouse.operate import promote_now, undo_now
from tallystream.warehouse.promote import Change, save_change
from tallystream.warehouse.read import open_reader
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
    """One committed state of the warehouse: offsets, watermarks, rules, redriven rows and the rows of views."""

    tallied: dict[Key, tuple[int, int]]
    watermarks: dict[str, datetime | None]
    rules: list[tuple[Any, ...]]
    redriven: pa.Table | None
    rows: dict[str, pa.Table]


def replay(settings: Settings, request: ReplayRequest, progress: Progress | None = None) -> ReplayResult:
    """Replays a range in a sandbox; compares it with the live views (diff), and swaps the difference in (promote).

    Raises:
        UsageError: the range does not exist.
        TallyError: the source cannot give it, or a promotion was refused; production is as it was.
    """
    comparing = request.mode != "sandbox"
    definitions = _definitions(settings, comparing)
    plans = load_views(request.views_dir) if request.views_dir else _kept(definitions)
    left_out = _left_out(plans, definitions, request) if comparing else []
    plans = {n: p for n, p in plans.items() if n not in {v.view for v in left_out}}
    live = _read_live(settings, definitions, list(plans) if comparing else [])
    spans = resolve(settings, request, live.tallied)
    folder = _folder(settings)
    store = open_store(settings)
    con = open_sandbox(folder / "tally.duckdb")
    try:
        done = run(con, settings, store, request, spans, histories(live.rules), plans, comparing, progress)
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
            result.views = [v.as_dict() for v in left_out]
            _compare(con, live, definitions, plans, done.regions, request, folder, result)
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
    if result.cells:
        done = promote_now(settings, Path(result.sandbox).parent)
        result.promotion, result.not_promoted = done["id"], done["refused"]
    return result


def undo(settings: Settings, promotion: int) -> dict[str, Any]:
    """Puts back the rows that a promotion replaced; see `undo_now`."""
    return undo_now(settings, promotion)


def backfill(
    settings: Settings,
    from_time: datetime,
    to_time: datetime,
    views: Sequence[str] | None = None,
    source: Source = "archive",
    progress: Progress | None = None,
) -> ReplayResult:
    """Recomputes the windows within [from_time, to_time), and promotes what differs; definitions are the warehouse's.

    `views`: their names; None: all.

    Raises:
        TallyError: as `replay`.
    """
    names = None if views is None else tuple(views)
    return replay(
        settings, ReplayRequest("promote", from_time=from_time, to_time=to_time, source=source, views=names), progress
    )


def _definitions(settings: Settings, comparing: bool) -> dict[str, tuple[str, str]]:
    """View -> (version, SQL) of those that are live."""
    with open_reader(settings) as reader:
        found = reader.rows("SELECT name, version, sql FROM ledger.views WHERE status = 'live' ORDER BY name")[2]
        resets = reader.rows("SELECT count(*) FROM ledger.resets")[2][0][0]
    if resets and comparing:
        raise WarehouseError(
            "offsets of this warehouse were reset by hand (ledger.resets): the log read again would not give its rows; "
            "replay in mode sandbox, or rebuild the views"
        )
    return {name: (version, sql) for name, version, sql in found}


def _left_out(
    plans: Mapping[str, ViewPlan], definitions: Mapping[str, tuple[str, str]], request: ReplayRequest
) -> list[ViewDiff]:
    """The views that are not compared, and why."""
    found = []
    for name, plan in sorted(plans.items()):
        why = None
        if request.views is not None and name not in request.views:
            why = "not asked for"
        elif name not in definitions:
            why = "not a live view of this warehouse: there is nothing to compare it with"
        elif not set(plan.topics) & set(request.topics):
            why = f"it reads {' and '.join(plan.topics)}, not the topics replayed"
        if why:
            found.append(ViewDiff(name, left_out=why))
    return found


def _read_live(settings: Settings, definitions: Mapping[str, tuple[str, str]], views: Sequence[str]) -> _Live:
    """One query, one committed state.

    Raises:
        WarehouseError: a view was built anew in between.
    """
    parts = {
        "offsets": "SELECT list(o) FROM (SELECT topic, partition, start_offset, next_offset FROM ledger.offsets WHERE retired_at IS NULL) o",
        "marks": "SELECT list(w) FROM (FROM ledger.watermarks) w",
        "rules": "SELECT list(r) FROM (FROM ledger.rules) r",
        "definitions": "SELECT list(d) FROM (SELECT name, version FROM ledger.views WHERE status = 'live') d",
    }
    parts |= {f"view {n}": f"SELECT list(v) FROM (FROM main.{quote(n)}) v" for n in views}
    with open_reader(settings) as reader:
        if reader.rows(HAS_REDRIVEN)[2][0][0]:
            parts["redriven"] = "SELECT list(r) FROM (FROM ledger.redriven) r"
        table = reader.arrow("SELECT " + ", ".join(f"({sql}) AS {quote(name)}" for name, sql in parts.items()))
    tables = {name: _rows(table[name]) for name in table.column_names}
    versions = {d["name"]: d["version"] for d in tables["definitions"].to_pylist()}
    for name in views:
        if versions.get(name) != definitions[name][0]:
            raise WarehouseError(f"view {name} was built anew a moment ago; replay again")
    return _Live(
        {(r["topic"], r["partition"]): (r["start_offset"], r["next_offset"]) for r in tables["offsets"].to_pylist()},
        {r["topic"]: r["watermark"] for r in tables["marks"].to_pylist()},
        [
            (r["topic"], r["partition"], r["from_offset"], r["lateness"], r["horizon"], r["max_ahead"])
            for r in tables["rules"].to_pylist()
        ],
        tables.get("redriven"),
        {name: tables[f"view {name}"] for name in views},
    )


def _rows(column: pa.ChunkedArray) -> pa.Table:
    """The rows of a list of structs in the one row that there is; NULL is no rows."""
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(column.combine_chunks().flatten())])


def _kept(definitions: Mapping[str, tuple[str, str]]) -> dict[str, ViewPlan]:
    plans = {}
    for name, (version, sql) in definitions.items():
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
    definitions: Mapping[str, tuple[str, str]],
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
            changes.append(_change(live, definitions[name][0], plan, region))
    result.cells = write(folder / "diff.parquet", parts).num_rows
    result.diff = str(folder / "diff.parquet")
    for change in changes:
        save_change(con, change, live.rows[change.view], folder)


def _change(live: _Live, version: str, plan: ViewPlan, region: Region) -> Change:
    offsets = {f"{t}/{p}": until for (t, p), (_, until) in live.tallied.items() if t in plan.topics}
    marks = [live.watermarks.get(t) for t in plan.topics]
    known = [m for m in marks if m is not None]
    mark = min(known) if len(known) == len(marks) else None
    watermark = None if mark is None else (mark - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    redriven = 0 if live.redriven is None else live.redriven.num_rows
    return Change(plan.name, version, plan, region.after, region.before, offsets, watermark, redriven)


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
