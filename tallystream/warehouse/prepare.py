"""Before a run: is the log still ours, which views are new, and from where does each partition go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import duckdb

from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.topics.memory import younger
from tallystream.topics.rule_history import RuleHistory, histories
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.commit import drop_state, publish
from tallystream.warehouse.reset import put
from tallystream.warehouse.same_log import ReadRecords, TopicLog, check_log

__all__ = ["PartitionStart", "TopicLog", "prepare", "starts"]


@dataclass(slots=True)
class PartitionStart:
    """Where one partition goes on, and what its judge remembers.

    Offsets [build_from, live_from) are read again for the views in `building` alone; from
    `live_from` on, for all. `max_event_time`: microseconds since the epoch, None before the first event.
    `until`: where a bounded run stops, exclusive; None in an endless one. `rules`: those of every offset so far.
    """

    topic: str
    partition: int
    live_from: int
    build_from: int
    building: frozenset[str]
    max_event_time: int | None
    rules: RuleHistory
    memory: list[bytes] = field(default_factory=list)
    until: int | None = None

    def stop_after(self, position: int) -> int | None:
        """The offset that a batch from `position` may not pass: where the live way begins, or other rules judged."""
        if position >= self.live_from:
            return None
        return min(self.live_from, self.rules.next_change(position) or self.live_from)


def prepare(
    con: duckdb.DuckDBPyConnection,
    plans: Mapping[str, ViewPlan],
    logs: Mapping[str, TopicLog],
    settings: Settings,
    now: datetime,
    read: ReadRecords | None = None,
) -> list[PartitionStart]:
    """Makes the warehouse ready for a run, in one transaction, and says from where it starts.

    New partitions begin at the log's start. A new or changed view gets empty state under its own
    version and is built from the start of the retained log; a build that a crash cut short begins anew.
    `read`: asks the log for the last records read, see `check_log`.

    Raises:
        LogWentBackError: the log is not the one tallied so far; nothing was changed.
    """
    check_log(con, logs, read)
    con.execute("BEGIN")
    try:
        _take_back(con, logs, now)
        _register_partitions(con, logs, settings)
        _register_views(con, plans, logs, now)
        hit("prepare.before_commit")
        con.execute("COMMIT")
    except BaseException:
        con.execute("ROLLBACK")
        raise
    hit("prepare.after_commit")
    return starts(con, logs)


def _take_back(con: duckdb.DuckDBPyConnection, logs: Mapping[str, TopicLog], now: datetime) -> None:
    """A topic has a partition again that a reset had retired: it is a new one, and read from its start."""
    for topic, partition in con.execute(
        "SELECT topic, partition FROM ledger.offsets WHERE retired_at IS NOT NULL"
    ).fetchall():
        if topic in logs and partition in logs[topic].ranges:
            low, _ = logs[topic].ranges[partition]
            put(con, topic, partition, low, now, "the topic has this partition again")


def _register_partitions(con: duckdb.DuckDBPyConnection, logs: Mapping[str, TopicLog], settings: Settings) -> None:
    for topic, log in logs.items():
        # Asked over another address the same broker may give no id: the one known stays.
        known = con.execute("DELETE FROM ledger.topics WHERE topic = ? RETURNING topic_id", [topic]).fetchall()
        con.execute("INSERT INTO ledger.topics VALUES (?, ?)", [topic, log.topic_id or next(iter(known), (None,))[0]])
        con.execute(
            "INSERT INTO ledger.watermarks SELECT ?, NULL WHERE NOT EXISTS (SELECT 1 FROM ledger.watermarks WHERE topic = ?)",
            [topic, topic],
        )
        for partition, (low, _) in sorted(log.ranges.items()):
            con.execute(
                "INSERT INTO ledger.offsets (topic, partition, start_offset, next_offset) SELECT ?, ?, ?, ? "
                "WHERE NOT EXISTS (SELECT 1 FROM ledger.offsets WHERE topic = ? AND partition = ?)",
                [topic, partition, low, low, topic, partition],
            )
            _register_rules(con, topic, partition, settings)


def _register_rules(con: duckdb.DuckDBPyConnection, topic: str, partition: int, settings: Settings) -> None:
    """From the next offset on a partition is judged by the settings' rules, if they are others than before."""
    here, rules = [topic, partition], (settings.lateness, settings.horizon, settings.max_ahead)
    last = con.execute(
        "SELECT lateness, horizon, max_ahead, from_offset, next_offset, epoch_us(max_event_time) FROM ledger.rules "
        "JOIN ledger.offsets USING (topic, partition) WHERE topic = ? AND partition = ? ORDER BY from_offset DESC LIMIT 1",
        here,
    ).fetchone()
    if last is not None and last[:3] == rules:
        return
    if last is not None and last[3] == last[4]:
        # No message was judged by the last ones: they leave no trace, and nothing was forgotten by them.
        con.execute("DELETE FROM ledger.rules WHERE topic = ? AND partition = ? AND from_offset = ?", [*here, last[3]])
    elif last is not None and last[5] is not None:
        _forget(con, topic, partition, last[5] - last[1] * 1_000_000)
    con.execute(
        "INSERT INTO ledger.rules SELECT topic, partition, next_offset, ?, ?, ? FROM ledger.offsets "
        "WHERE topic = ? AND partition = ?",
        [*rules, *here],
    )


def _forget(con: duckdb.DuckDBPyConnection, topic: str, partition: int, before: int) -> None:
    """Ids that the rules until now have forgotten stay so: in the file is more, by whole batches.

    A longer horizon would know some of them again, those that shared a batch with a younger one, and the verdicts would depend
    on how the log was cut into batches. `before`: microseconds.
    """
    rows = con.execute(
        "SELECT rowid, memory FROM state.judge WHERE topic = ? AND partition = ?", [topic, partition]
    ).fetchall()
    for row, memory in rows:
        con.execute("UPDATE state.judge SET memory = ? WHERE rowid = ?", [younger(bytes(memory), before), row])


def _register_views(
    con: duckdb.DuckDBPyConnection, plans: Mapping[str, ViewPlan], logs: Mapping[str, TopicLog], now: datetime
) -> None:
    known = con.execute("SELECT name, version, status FROM ledger.views").fetchall()
    for name, version, status in known:
        plan = plans.get(name)
        if plan is None or (plan.version != version and status != "live"):
            if plan is None:
                con.execute(f'DROP VIEW IF EXISTS main."{name}"')
            drop_state(con, name, version)
        elif plan.version == version and status != "live":
            # A build cut short, or an old definition come back: its rows miss events, so begin anew.
            drop_state(con, name, version)
        elif plan.version != version:
            # Its rows stay on show until the successor is built, and get no more events.
            con.execute("UPDATE ledger.views SET status = 'superseded' WHERE name = ? AND version = ?", [name, version])
    kept = set(con.execute("SELECT name, version FROM ledger.views WHERE status = 'live'").fetchall())
    for name, plan in plans.items():
        con.execute("DELETE FROM ledger.view_topics WHERE name = ?", [name])
        con.executemany(
            "INSERT INTO ledger.view_topics VALUES (?, ?, ?)", [[name, plan.version, topic] for topic in plan.topics]
        )
        if (name, plan.version) in kept:
            continue
        for statement in plan.state_ddl():
            con.execute(statement)
        con.execute(
            "INSERT INTO ledger.views VALUES (?, ?, 'building', ?, ?, NULL)", [name, plan.version, plan.sql, now]
        )
        for topic in plan.topics:
            for partition, (low, _) in sorted(logs[topic].ranges.items()):
                con.execute(
                    "INSERT INTO ledger.builds SELECT ?, ?, topic, partition, least(?, next_offset), least(?, next_offset), next_offset "
                    "FROM ledger.offsets WHERE topic = ? AND partition = ?",
                    [name, plan.version, low, low, topic, partition],
                )
        left = con.execute(
            "SELECT count(*) FROM ledger.builds WHERE name = ? AND version = ? AND next_offset < until_offset",
            [name, plan.version],
        ).fetchone()
        if left == (0,):
            publish(con, plan, now)


def starts(con: duckdb.DuckDBPyConnection, logs: Mapping[str, TopicLog]) -> list[PartitionStart]:
    """Where every partition goes on, from the ledger alone."""
    found = []
    rules = histories(con.execute("FROM ledger.rules").fetchall())
    rows = con.execute(
        "SELECT topic, partition, next_offset, epoch_us(max_event_time) FROM ledger.offsets WHERE retired_at IS NULL "
        "ORDER BY topic, partition"
    ).fetchall()
    for topic, partition, position, newest in rows:
        if topic not in logs:
            continue
        builds = con.execute(
            "SELECT name, next_offset FROM ledger.builds WHERE topic = ? AND partition = ? AND next_offset < until_offset",
            [topic, partition],
        ).fetchall()
        memory = con.execute(
            "SELECT memory FROM state.judge WHERE topic = ? AND partition = ? ORDER BY first_offset", [topic, partition]
        ).fetchall()
        found.append(
            PartitionStart(
                topic,
                partition,
                live_from=position,
                build_from=min((b for _, b in builds), default=position),
                building=frozenset(name for name, _ in builds),
                max_event_time=newest,
                rules=rules[topic, partition],
                memory=[bytes(row[0]) for row in memory],
            )
        )
    return found
