"""The rows that redrives have put into the views: `ledger.redriven`, and what a rebuild must do with it.

A view built anew from the log meets the judge's verdicts alone; without these events it would
silently lose every redrive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.settings import Settings
from tallystream.topics.batch import RawBatch
from tallystream.topics.contracts import contract
from tallystream.topics.decode import Decoder
from tallystream.topics.registry import open_registry
from tallystream.views.plan import ViewPlan
from tallystream.views.tally import Tallier
from tallystream.warehouse.cold import thaw
from tallystream.warehouse.copies import History, applied_of

Kind = Literal["late", "dead"]
TABLES: dict[Kind, str] = {"late": "main.late_events", "dead": "main.dead_letters"}
# Made by the first redrive. `remembered`: so young that the judge's memory was given the id.
TABLE = """
    CREATE TABLE IF NOT EXISTS ledger.redriven (
        topic VARCHAR NOT NULL,
        partition INTEGER NOT NULL,
        "offset" BIGINT NOT NULL,
        kind VARCHAR NOT NULL,
        verdict VARCHAR NOT NULL,
        event_id VARCHAR NOT NULL,
        event_time TIMESTAMP NOT NULL,
        remembered BOOLEAN NOT NULL,
        redriven_at TIMESTAMP NOT NULL,
        PRIMARY KEY (topic, partition, "offset")
    )
"""


def exists(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether anything was ever redriven here."""
    query = "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name = 'redriven'"
    return con.execute(query).fetchone() is not None


def counts(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, int], dict[str, int]]:
    """By partition how many late and dead rows are in the views: {"late": n, "dead": n}.

    The accounts say what the log was judged to be; the views hold applied + these.
    """
    found: dict[tuple[str, int], dict[str, int]] = {}
    if not exists(con):
        return found
    query = "SELECT topic, partition, kind, count(*) FROM ledger.redriven WHERE verdict = 'applied' GROUP BY ALL"
    for topic, partition, kind, n in con.execute(query).fetchall():
        found.setdefault((topic, partition), {"late": 0, "dead": 0})[kind] = n
    return found


def messages(con: duckdb.DuckDBPyConnection, kind: Kind, topic: str, partition: int, offsets: np.ndarray) -> RawBatch:
    """Late or dead messages as they came: key, value and the record's own timestamp; `offsets` not empty."""
    con.register("tally_chosen", pa.table({"offset": offsets}))
    rows = con.execute(
        f'SELECT "offset", coalesce(epoch_ms(record_time), -1), key, value FROM {TABLES[kind]} '
        'SEMI JOIN tally_chosen USING ("offset") WHERE topic = ? AND partition = ? ORDER BY "offset"',
        [topic, partition],
    ).fetchall()
    con.unregister("tally_chosen")
    at, stamps, keys, values = zip(*rows, strict=True)
    first, after = int(at[0]), int(at[-1]) + 1
    stamped = np.array(stamps, np.int64)
    return RawBatch(topic, partition, first, after, np.array(at, np.int64), stamped, list(keys), list(values))


def redriven_events(con: duckdb.DuckDBPyConnection, settings: Settings, topic: str, history: History) -> pa.Table:
    """The events of a topic that are in the views by a redrive, in the contract's columns.

    Who rebuilds a view from the log, judged anew, adds these. Left out are those whose copy came later and
    was a duplicate only because the judge had been told of them: judged anew, that copy is applied.
    """
    parts = [contract(topic).arrow.empty_table()]
    if not exists(con):
        return parts[0]
    query = (
        'SELECT partition, kind, list("offset" ORDER BY "offset"), list(event_id) FILTER (WHERE remembered) '
        "FROM ledger.redriven WHERE topic = ? AND verdict = 'applied' GROUP BY ALL ORDER BY ALL"
    )
    for partition, kind, offsets, young in con.execute(query, [topic]).fetchall():
        raw = messages(con, kind, topic, partition, np.array(offsets, np.int64))
        events = Decoder(topic, open_registry(settings)).decode(raw).events
        if young:
            applied = applied_of(con, topic, partition, ())
            again, _ = applied.in_history(set(young), history)
            events = events.filter(
                pc.invert(pc.is_in(events["event_id"], value_set=pa.array(sorted(again), pa.string())))
            )
        parts.append(events)
    return pa.concat_tables(parts)


def merge(con: duckdb.DuckDBPyConnection, plan: ViewPlan, partial: pa.Table) -> None:
    """Merges a view's partial into its state, final rows included; the caller holds the transaction."""
    thaw(con, plan, partial)
    plan.merge(con, partial)


def seed(con: duckdb.DuckDBPyConnection, settings: Settings, plans: Iterable[ViewPlan], history: History) -> None:
    """Puts all redriven events into views whose state is new and empty; the caller holds the transaction."""
    for plan in plans:
        for topic in plan.topics:
            events = redriven_events(con, settings, topic, history)
            for partial in Tallier({plan.name: plan}, threads=1).tally(topic, events).values():
                merge(con, plan, partial)
