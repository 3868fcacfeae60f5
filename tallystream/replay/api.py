"""Replay, promote, undo: what the command line and the control plane call."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.errors import TallyError, UsageError
from tallystream.replay.diff import SCHEMA, ViewDiff, compare, region_of, write
from tallystream.replay.engine import Progress, Region, narrowed, open_sandbox, run
from tallystream.replay.live import Live, definitions, kept_plans, read_live
from tallystream.replay.request import Available, ReplayRequest, resolve
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics.rule_history import histories
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.archive_read import FullHistory
from tallystream.warehouse.operate import promote_now, undo_now
from tallystream.warehouse.promote import Change, save_change
from tallystream.warehouse.redriven import TABLE, TABLES, exists, seed
from tallystream.warehouse.swap import Slice

TOTALS = (
    "it has no windows: its rows of all times differ, and cannot be swapped beside events that come; stop the stream and "
    "`tally replay --mode promote` over everything, or let `tally run` build it anew"
)


@dataclass
class ReplayResult:
    """What a replay did; every field is JSON.

    `sandbox`: its DuckDB file. `views`: see `ViewDiff`, empty in mode sandbox. `views_to_swap`: how many have rows to be swapped.
    `promotion`: the id to undo it by; None when nothing was promoted. `late`: of a backfill, what became of the late events
    of its hours, see `Summary`; None when they were not asked for.
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
    views_to_swap: int = 0
    late: dict[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def replay(
    settings: Settings,
    request: ReplayRequest,
    progress: Progress | None = None,
    permit: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Replays a range in a sandbox; compares it with the live views (diff), and swaps the difference in (promote).

    `permit` is called before production is changed; what it raises leaves production as it is.

    Raises:
        UsageError: the range does not exist.
        TallyError: the source cannot give it, or a promotion was refused; production is as it was.
    """
    request.check()
    comparing = request.mode != "sandbox"
    found = definitions(settings, comparing)
    plans = load_views(request.views_dir) if request.views_dir else kept_plans(found)
    left_out = _left_out(plans, found, request) if comparing else []
    plans = {n: p for n, p in plans.items() if n not in {v.view for v in left_out}}
    live = read_live(settings, found, list(plans) if comparing else [])
    spans = resolve(settings, request, live.tallied, live.times)
    folder = _folder(settings)
    store = open_store(settings)
    con = open_sandbox(folder / "tally.duckdb")
    try:
        done = run(con, settings, store, request, spans, histories(live.rules), plans, comparing, progress)
        if comparing and live.redriven is not None and live.redriven.num_rows:
            _seed(con, settings, plans, live, FullHistory(settings, store))
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
            _compare(con, live, found, plans, done.regions, request, folder, result)
    except BaseException:
        con.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    con.close()
    if request.mode == "promote":
        permit()
        promote(settings, result)
    return result


def promote(settings: Settings, result: ReplayResult) -> ReplayResult:
    """Swaps the rows that a diff found to differ into the warehouse, in one transaction of its writer.

    Raises:
        WarehouseError: the live rows are not those that were compared any more; nothing was changed.
    """
    result.mode = "promote"
    if result.views_to_swap:
        done = promote_now(settings, Path(result.sandbox).parent)
        result.promotion = done["id"]
        result.not_promoted |= done["refused"]
    return result


def undo(settings: Settings, promotion: int) -> dict[str, Any]:
    """Puts back the rows that a promotion replaced; see `undo_now`."""
    return undo_now(settings, promotion)


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


def _seed(
    con: duckdb.DuckDBPyConnection, settings: Settings, plans: Mapping[str, ViewPlan], live: Live, history: FullHistory
) -> None:
    """Late and dead rows that were put into the live views belong to the replayed ones too."""
    if not exists(con):
        con.execute(TABLE)
    con.register("live_redriven", live.redriven)
    con.execute("INSERT INTO ledger.redriven BY NAME FROM live_redriven")
    con.unregister("live_redriven")
    con.register("live_raw", live.raw)
    for table in TABLES.values():
        con.execute(
            f"UPDATE {table} AS t SET key = r.key, value = r.value FROM live_raw r "
            'WHERE t.topic = r.topic AND t.partition = r.partition AND t."offset" = r."offset"'
        )
    con.unregister("live_raw")
    con.execute("BEGIN")
    seed(con, settings, plans.values(), history)
    con.execute("COMMIT")


def _compare(
    con: duckdb.DuckDBPyConnection,
    live: Live,
    found: Mapping[str, tuple[str, str]],
    plans: Mapping[str, ViewPlan],
    regions: Mapping[str, Region],
    request: ReplayRequest,
    folder: Path,
    result: ReplayResult,
) -> None:
    parts, changes = [], []
    for name, plan in sorted(plans.items()):
        region = region_of(plan, regions)
        if not (request.mends and plan.window is None):
            region = narrowed(region, request.event_times)
        standing = [p for p in live.promoted if p.view == name] if request.mends else []
        told, cells = compare(con, plan, live.rows[name], Slice(region.after, region.before), standing)
        result.views.append(told.as_dict())
        parts.append(cells)
        if told.differs and request.mends and plan.window is None:
            result.not_promoted[name] = TOTALS
        elif told.differs:
            rows = Slice(region.after, region.before, tuple(p.bounds for p in standing))
            changes.append(_change(live, found[name][0], plan, rows))
    # Of a backfill the views without windows are looked at whole; for others it is the range that must hold a row.
    if not request.mends and not any(v["compared"] for v in result.views):
        raise UsageError(_nothing(live, request, result))
    result.cells = write(folder / "diff.parquet", parts).num_rows
    result.diff = str(folder / "diff.parquet")
    for change in changes:
        save_change(con, change, live.rows[change.view], folder)
    result.views_to_swap = len(changes)


def _nothing(live: Live, request: ReplayRequest, result: ReplayResult) -> str:
    why = "; ".join(f"{v['view']}: {v['left_out']}" for v in result.views if v["left_out"])
    there = Available(live.tallied, live.times, {}).in_words("archive")
    return (
        "nothing was compared: no row of a live view is made of events of the range alone"
        f"{f' ({why})' if why else ''}; tallied were {there}: widen the range, or replay in mode sandbox"
    )


def _change(live: Live, version: str, plan: ViewPlan, rows: Slice) -> Change:
    offsets = {f"{t}/{p}": until for (t, p), (_, until) in live.tallied.items() if t in plan.topics}
    redriven = 0 if live.redriven is None else live.redriven.num_rows
    return Change(plan.name, version, plan, rows, offsets, live.watermark_of(plan), redriven)


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
