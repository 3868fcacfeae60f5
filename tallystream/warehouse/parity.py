"""Parity: what the stream kept, row by row, is what the view's own SQL gives over the accepted events at once.

Rows are chosen by `sample`, and the events that make them read without asking the judge, by `accepted`: so a fault of the
judge, of a plan, of a merge or of a restart shows, whichever it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.database import connect
from tallystream.settings import HEARTBEAT, Settings
from tallystream.store.objects import Store
from tallystream.views.loader import create_relations, install_macros
from tallystream.views.plan import ViewPlan, quote
from tallystream.warehouse.accepted import Accepted, Stretch
from tallystream.warehouse.archive_files import schema_of
from tallystream.warehouse.read import Reader, listed, open_reader
from tallystream.warehouse.sample import Sample, sample_of

HAS_REDRIVEN = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name = 'redriven'"
SHOWN = 10  # rows that differ, as sentences


@dataclass(frozen=True)
class Compared:
    """One view's parity: how many of `what` (windows, sessions, keys, rows) were looked at, rows compared, events read.

    `examples`: up to ten rows that differ, as sentences. `skipped` says why nothing was compared, else None.
    """

    view: str
    what: str = ""
    sampled: int = 0
    rows: int = 0
    events: int = 0
    differing: int = 0
    examples: tuple[str, ...] = ()
    skipped: str | None = None


def parity(settings: Settings, store: Store, plan: ViewPlan, n: int, seed: int) -> Compared:
    """Recomputes `n` final windows, sessions or matches of a view, or keys of one without windows, and compares them.

    They are chosen by `seed`. Rows that are not final yet are compared as of the offsets committed then.

    Raises:
        WarehouseError: there is no warehouse, or the archive is damaged.
        BrokerError: the log cannot be read.
    """
    sample = sample_of(plan, n, seed)
    if isinstance(sample, str):
        return Compared(plan.name, skipped=sample)
    topics = ", ".join(f"'{topic}'" for topic in plan.topics)
    with open_reader(settings) as reader:
        if reader.rows(f"SELECT count(*) FROM ledger.resets WHERE topic IN ({topics})")[2][0][0]:
            moved = "offsets of its topic were reset by hand: the log is not what it was"
            return Compared(plan.name, sample.what, skipped=moved)
        state = state_of(reader, plan, sample)
    chosen, kept = state["chosen"], state["kept"]
    if not chosen.num_rows:
        empty = "none of its rows is final yet" if plan.final_condition("rows") is not None else "it has no row yet"
        return Compared(plan.name, sample.what, skipped=empty)
    reach = list(zip(chosen["low"].to_pylist(), chosen["high"].to_pylist(), strict=True))
    accepted = Accepted(settings, store, stretches(state), reach)
    problem = accepted.problem()
    if problem is not None:
        return Compared(plan.name, sample.what, skipped=problem)
    with connect() as con:
        con.register("chosen", chosen)
        events = accepted.tables(lambda topic, piece: wanted(con, sample, topic, piece))
        found = replace(compare(con, plan, sample, kept, events), sampled=chosen.num_rows)
    return found


def compare(
    con: duckdb.DuckDBPyConnection, plan: ViewPlan, sample: Sample, kept: pa.Table, events: Iterable[pa.Table]
) -> Compared:
    """Compares `kept` with the view's SQL over `events`, tables of the archive's columns; `con` has the relation `chosen`.

    Of each event_id of a partition the first by offset counts.
    """
    install_macros(con)
    create_relations(con)
    read = 0
    by_topic: dict[str, list[pa.Table]] = {topic: [] for topic in plan.topics}
    for table in events:
        read += table.num_rows
        by_topic[table["topic"][0].as_py()].append(table)
    for topic, parts in by_topic.items():
        con.register("all_events", pa.concat_tables([schema_of(topic).empty_table(), *parts]))
        columns = ", ".join(quote(name) for name, *_ in con.execute(f"DESCRIBE {topic}").fetchall())
        con.execute(
            f"INSERT INTO {topic} SELECT {columns} FROM all_events WHERE event_type <> '{HEARTBEAT}' "
            'QUALIFY row_number() OVER (PARTITION BY partition, event_id ORDER BY "offset") = 1'
        )
        con.unregister("all_events")
    con.register("kept", kept)
    typed = ", ".join(f"CAST({quote(c)} AS {kind}) AS {quote(c)}" for c, kind in plan.types.items())
    con.execute(f"CREATE TEMP TABLE a AS SELECT {typed} FROM kept")
    con.execute(
        f"CREATE TEMP TABLE b AS SELECT {typed} FROM (SELECT v.* FROM ({plan.batch_sql()}) v SEMI JOIN chosen c ON {sample.match})"
    )
    told: list[str] = []
    for sentence, one, other in (("missing from the view", "b", "a"), ("only in the view", "a", "b")):
        rows = con.execute(f"(FROM {one} EXCEPT ALL FROM {other}) ORDER BY ALL").to_arrow_table().to_pylist()
        told += [f"{sentence}: {row}" for row in rows]
    return Compared(plan.name, sample.what, 0, kept.num_rows, read, len(told), tuple(told[:SHOWN]))


def state_of(reader: Reader, plan: ViewPlan, sample: Sample) -> dict[str, pa.Table]:
    """One committed state, in one query: a stream commits between two, and a row that is not final would differ."""
    topics = ", ".join(f"'{t}'" for t in plan.topics)
    refused = (
        f'SELECT topic, partition, "offset" FROM late_events WHERE topic IN ({topics}) '
        f'UNION ALL SELECT topic, partition, "offset" FROM dead_letters WHERE topic IN ({topics})'
    )
    if reader.rows(HAS_REDRIVEN)[2][0][0]:
        refused = (
            f'SELECT r.* FROM ({refused}) r ANTI JOIN (SELECT topic, partition, "offset" FROM ledger.redriven '
            "WHERE verdict = 'applied') d USING (topic, partition, \"offset\")"
        )
    columns = ", ".join(f"v.{quote(c)}" for c in plan.types)
    parts = {
        "chosen": "FROM chosen",
        "kept": f"SELECT {columns} FROM main.{quote(plan.name)} v SEMI JOIN chosen c ON {sample.match}",
        "refused": refused,
        "offsets": f"SELECT topic, partition, start_offset, next_offset FROM ledger.offsets WHERE topic IN ({topics})",
    }
    lists = ", ".join(f"(SELECT list(x) FROM ({sql}) x) AS {name}" for name, sql in parts.items())
    table = reader.arrow(f"WITH chosen AS MATERIALIZED ({sample.chosen}) SELECT {lists}")
    return {name: listed(table[name]) for name in parts}


def stretches(state: dict[str, pa.Table]) -> list[Stretch]:
    """What was tallied of each partition, and what of it is in no view."""
    refused = state["refused"]
    found = []
    for r in state["offsets"].to_pylist():
        mine = pc.and_(pc.equal(refused["topic"], r["topic"]), pc.equal(refused["partition"], r["partition"]))
        offsets = refused.filter(mine)["offset"].combine_chunks()
        found.append(Stretch(r["topic"], r["partition"], r["start_offset"], r["next_offset"], offsets))
    return found


def wanted(con: duckdb.DuckDBPyConnection, sample: Sample, topic: str, piece: pa.Table) -> pa.Table:
    """The events of a piece of archive or log that can have made what is looked at."""
    con.register("piece", piece)
    ids = " UNION ALL ".join(sample.events(topic, "piece"))
    kept = con.execute(f"SELECT p.* FROM piece p SEMI JOIN ({ids}) w USING (event_id)").to_arrow_table()
    con.unregister("piece")
    return kept.cast(piece.schema)
