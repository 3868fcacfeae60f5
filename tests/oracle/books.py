"""Compares a warehouse with the books kept by hand over the same log."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import fastavro
from confluent_kafka import Consumer, TopicPartition

from tallystream.settings import PROJECT, TOPICS, Settings
from tallystream.topics.client import ensure_topics, kafka_config, log_range

from .judging import Account, Message, judge
from .shipped import SHIPPED, Rows

Books = dict[str, dict[int, Account]]


def schemas() -> dict[int, Any]:
    """Schema id -> parsed schema, read from the folder by hand."""
    folder = PROJECT / "schemas"
    index = json.loads((folder / "index.json").read_text())["schemas"]
    return {int(i): fastavro.parse_schema(json.loads((folder / s["file"]).read_text())) for i, s in index.items()}


def read_log(settings: Settings, topic: str) -> dict[int, list[Message]]:
    """All committed messages of a topic, by partition, with a plain consumer."""
    ranges = log_range(settings, topic, ensure_topics(settings, [topic])[topic])
    found: dict[int, list[Message]] = {p: [] for p in ranges}
    config = {**kafka_config(settings), "group.id": "oracle", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(config)
    try:
        open_ends = {p for p, (low, high) in ranges.items() if high > low}
        consumer.assign([TopicPartition(topic, p, ranges[p][0]) for p in open_ends])
        while open_ends:
            for m in consumer.consume(10_000, 0.05):
                if m.error() is not None:
                    open_ends.discard(m.partition())
                    continue
                kind, stamp = m.timestamp()
                found[m.partition()].append(Message(m.offset(), stamp if kind else None, m.key(), m.value()))
    finally:
        consumer.close()
    return found


def keep(settings: Settings, known: dict[int, Any] | None = None, **rules: Any) -> Books:
    """The books of every partition of both topics; `known`: the schemas of a registry, by id, instead of the folder's."""
    known = known or schemas()
    return {t: {p: judge(log, known, topic=t, **rules) for p, log in read_log(settings, t).items()} for t in TOPICS}


def compare(con: duckdb.DuckDBPyConnection, books: Books, views: tuple[str, ...] = tuple(SHIPPED)) -> None:
    """Asserts that accounts, late and dead rows and every cell of the views are as the books say."""
    compare_accounts(con, books)
    told = {t: [e for a in by.values() for e in a.applied if e["event_type"] != "heartbeat"] for t, by in books.items()}
    compare_views(con, told, views)


def compare_views(
    con: duckdb.DuckDBPyConnection, events: dict[str, list[dict[str, Any]]], views: tuple[str, ...] = tuple(SHIPPED)
) -> None:
    """Asserts that the views' rows are those of the accepted events, by topic."""
    for name in views:
        topics, oracle, keys, told = SHIPPED[name]
        wanted = as_lists(oracle(e for topic in topics for e in events[topic]))
        rows = con.execute(f"SELECT {', '.join([*keys, *told])} FROM main.{name}").fetchall()
        found: dict[Any, list[Any]] = {}
        for row in rows:
            found.setdefault(row[: len(keys)], []).append(row[len(keys) :])
        same = {k: sorted(v, key=repr) for k, v in found.items()}
        assert same == wanted, f"{name}: {_first_difference(same, wanted)}"


def as_lists(rows: Rows) -> dict[Any, list[Any]]:
    """Rows by key; an event that was accepted twice has two of them."""
    return {k: sorted(v, key=repr) if isinstance(v, list) else [v] for k, v in rows.items()}


def compare_accounts(con: duckdb.DuckDBPyConnection, books: Books) -> None:
    """Asserts conservation and the accounts of every partition."""
    names = ("consumed", "applied", "duplicate", "late", "dead", "shed")
    found = {
        (row[0], row[1]): dict(zip(names, row[2:], strict=True))
        for row in con.execute(f"SELECT topic, partition, {', '.join(names)} FROM ledger.offsets").fetchall()
    }
    wanted = {(t, p): a.counts() for t, by_partition in books.items() for p, a in by_partition.items()}
    assert found == wanted
    for (topic, partition), counts in found.items():
        assert counts["consumed"] == sum(counts[n] for n in names[1:]), f"{topic}/{partition} does not balance"
    for table, account in (("late_events", "late"), ("dead_letters", "dead")):
        kept = sorted(con.execute(f'SELECT topic, partition, "offset" FROM main.{table}').fetchall())
        said = sorted((t, p, o) for t, ps in books.items() for p, a in ps.items() for o in getattr(a, account))
        assert kept == said, f"{table} and the books differ"
    commits = con.execute(
        "SELECT topic, partition, min(from_offset), max(to_offset), sum(to_offset - from_offset), sum(consumed) "
        "FROM ledger.commits GROUP BY ALL"
    ).fetchall()
    for topic, partition, first, last, covered, consumed in commits:
        # Half-open ranges that neither overlap nor leave a hole.
        assert covered == last - first, f"the commits of {topic}/{partition} do not join"
        assert consumed == found[topic, partition]["consumed"]


def _first_difference(found: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    for key in sorted({*found, *wanted}, key=repr):
        if found.get(key) != wanted.get(key):
            return f"at {key}: the view has {found.get(key)}, the books {wanted.get(key)}"
    return "none"
