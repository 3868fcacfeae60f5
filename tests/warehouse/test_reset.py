"""Positions moved by hand: partitions that are gone are retired, ids are adopted for whole topics, records are known again."""

from __future__ import annotations

from datetime import datetime

import duckdb
import pytest

from tallystream.errors import LogWentBackError, UsageError
from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics.batch import LastRecord, last_record
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.prepare import prepare
from tallystream.warehouse.reset import move
from tallystream.warehouse.restore import restore
from tallystream.warehouse.same_log import TopicLog, check_log
from tallystream.warehouse.schema import migrate
from tallystream.warehouse.snapshot import snapshot

NOW = datetime(2026, 3, 1, 12)
ID = "a-log"


def log(partitions: int, end: int = 100, topic_id: str | None = ID) -> dict[str, TopicLog]:
    return {"clicks": TopicLog(topic_id, dict.fromkeys(range(partitions), (0, end)))}


def record_at(offset: int, value: bytes = b"v") -> LastRecord:
    return last_record(offset, 1000 + offset, b"k", value)


def this_log(wanted):
    return {key: record_at(offset) for key, offset in wanted.items()}


def another_log(wanted):
    return {key: record_at(offset, b"another") for key, offset in wanted.items()}


def with_holes(wanted):
    """Compaction has removed the record: the next one is further on."""
    return {key: record_at(offset + 3, b"another") for key, offset in wanted.items()}


def emptied(wanted):
    return dict.fromkeys(wanted)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def con(settings):
    """Three partitions of clicks that stand at 50, 60 and 70."""
    with duckdb.connect(str(settings.warehouse)) as con:
        migrate(con)
        prepare(con, {}, log(3), settings, NOW)
        for partition in range(3):
            at = 50 + 10 * partition
            known = record_at(at - 1)
            con.execute(
                "UPDATE ledger.offsets SET next_offset = ?, consumed = ?, applied = ?, last_offset = ?, last_digest = ? "
                "WHERE partition = ?",
                [at, at, at, known.offset, known.digest, partition],
            )
        yield con


def positions(con) -> list[tuple[object, ...]]:
    return con.execute(
        "SELECT partition, next_offset, consumed, retired_at IS NULL FROM ledger.offsets ORDER BY 1"
    ).fetchall()


STOOD = [(0, 50, 50, True), (1, 60, 60, True), (2, 70, 70, True)]


@pytest.mark.parametrize("read", [this_log, with_holes, emptied])
def test_the_log_is_known_by_its_last_record(con, read):
    check_log(con, log(3), read)


def test_another_log_is_refused_though_the_offsets_are_in_it(con):
    with pytest.raises(
        LogWentBackError, match=r"clicks/0: the log has \[0, 100\).*offset 49.*past offset 50.*tally reset"
    ):
        check_log(con, log(3), another_log)
    with pytest.raises(LogWentBackError, match="clicks/0 at 50, clicks/1 at 60, clicks/2 at 70"):
        check_log(con, log(3, topic_id="another"), this_log)


def test_where_retention_has_removed_the_record_nothing_is_asked(con):
    asked: list[object] = []
    check_log(con, {"clicks": TopicLog(ID, dict.fromkeys(range(3), (50, 100)))}, lambda w: asked.append(w) or {})
    assert asked == [{("clicks", 1): 59, ("clicks", 2): 69}]


@pytest.mark.parametrize(
    ("one", "other"),
    [((5, b"k", b"v"), (6, b"k", b"v")), ((5, b"kv", b""), (5, b"k", b"v")), ((5, None, b"v"), (5, b"", b"v"))],
)
def test_records_that_differ_in_anything_differ(one, other):
    assert last_record(1, *one) == last_record(1, *one) != last_record(1, *other)


def test_a_snapshot_holds_the_last_records(con, settings, tmp_path):
    store = open_store(settings)
    name = snapshot(con, settings, store)
    there = Settings(home=tmp_path / "there", object_store=store.url)
    restore(there, store, name)
    with duckdb.connect(str(there.warehouse)) as restored:
        check_log(restored, log(3), this_log)
        with pytest.raises(LogWentBackError):
            check_log(restored, log(3), another_log)


def test_a_reset_remembers_the_record_before_the_new_position(con):
    move(con, "clicks", log(3)["clicks"], None, "latest", NOW, another_log)
    check_log(con, log(3), another_log)
    with pytest.raises(LogWentBackError, match="offset 99"):
        check_log(con, log(3), this_log)


@pytest.mark.parametrize("read", [this_log, another_log, emptied])
def test_after_a_reset_to_where_no_record_is_before_nothing_is_compared(con, read):
    move(con, "clicks", log(3)["clicks"], None, "earliest", NOW, read)
    check_log(con, log(3), another_log)


def test_partitions_that_are_gone_are_retired_and_keep_their_accounts(con, settings):
    fewer = log(2, topic_id="made anew")
    with pytest.raises(LogWentBackError):
        check_log(con, fewer, this_log)
    moved = move(con, "clicks", fewer["clicks"], None, "earliest", NOW, this_log)
    assert [(m.partition, m.before, m.after) for m in moved] == [(0, 50, 0), (1, 60, 0), (2, 70, None)]
    starts = prepare(con, {}, fewer, settings, NOW, this_log)
    assert [(s.partition, s.live_from) for s in starts] == [(0, 0), (1, 0)]
    assert positions(con) == [(0, 0, 50, True), (1, 0, 60, True), (2, 70, 70, False)]
    assert con.execute("SELECT partition, from_offset, to_offset FROM ledger.resets ORDER BY 1").fetchall() == [
        (0, 50, 0),
        (1, 60, 0),
        (2, 70, 70),
    ]
    # It is there again: another one, which is read from its start.
    starts = prepare(con, {}, log(3, topic_id="made anew"), settings, NOW, this_log)
    assert [(s.partition, s.live_from) for s in starts] == [(0, 0), (1, 0), (2, 0)]
    assert positions(con)[2] == (2, 0, 70, True)


def test_a_partition_that_is_gone_holds_no_watermark_back(con):
    con.execute("UPDATE ledger.offsets SET max_event_time = ? WHERE partition < 2", [NOW])
    watermark = "SELECT watermark FROM ledger.watermarks WHERE topic = 'clicks'"
    Committer(con, {}, 0, 0)._watermarks(["clicks"])
    assert con.execute(watermark).fetchall() == [(None,)]
    move(con, "clicks", log(2)["clicks"], None, "earliest", NOW, this_log)
    Committer(con, {}, 0, 0)._watermarks(["clicks"])
    assert con.execute(watermark).fetchall() == [(NOW,)]


def test_one_partition_of_a_topic_made_anew_is_not_reset_alone(con):
    with pytest.raises(UsageError, match=r"made anew .*leave --partition out.*nothing was changed"):
        move(con, "clicks", log(3, topic_id="made anew")["clicks"], 0, "earliest", NOW, this_log)
    assert positions(con) == STOOD
    move(con, "clicks", log(3)["clicks"], 0, "20", NOW, this_log)
    assert positions(con) == [(0, 20, 50, True), *STOOD[1:]]
    check_log(con, log(3), this_log)


def test_an_id_once_known_is_not_forgotten_where_the_broker_tells_none(con, settings):
    prepare(con, {}, log(3, topic_id=None), settings, NOW, this_log)
    with pytest.raises(LogWentBackError):
        check_log(con, log(3, topic_id="another"), this_log)


def test_what_is_read_again_is_judged_by_the_rules_in_force(con, settings):
    for position, lateness in ((30, 60), (40, 90), (50, 120)):
        con.execute("UPDATE ledger.offsets SET next_offset = ? WHERE partition = 0", [position])
        prepare(con, {}, log(3), settings.model_copy(update={"lateness": lateness}), NOW)
    move(con, "clicks", log(3)["clicks"], 0, "30", NOW, this_log)
    rules = con.execute("SELECT from_offset, lateness FROM ledger.rules WHERE partition = 0 ORDER BY 1").fetchall()
    assert rules == [(0, 600), (30, 120)]
