"""A broker with seven hundred clicks, an empty store, and what an archive of them must hold."""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime, timedelta

import fastavro
import pytest
from confluent_kafka import Producer

from tallystream.settings import Settings
from tallystream.store.objects import open_store
from tallystream.topics import broker
from tallystream.topics.client import ensure_topics, kafka_config
from tallystream.topics.contracts import contract
from tallystream.warehouse.archive import Target
from tallystream.warehouse.archive_index import load
from tallystream.warehouse.archive_read import archive_scan, archived

N = 700
BASE = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCHEMA = fastavro.parse_schema(contract("clicks").schema)


def click(i):
    event = {
        "event_id": f"e{i}", "event_type": "view", "event_time": BASE + timedelta(seconds=20 * i), "user_id": "k",
        "session_id": None, "product_id": None, "category": None, "brand": None, "url": None, "price_cents": i,
    }  # fmt: skip
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMA, event)
    return b"\0" + (2).to_bytes(4, "big") + out.getvalue()


def message(i):
    """Every 50th is garbage, every 70th a tombstone; record times go back a little now and then; four hours."""
    value = None if i % 70 == 3 else b"garbage" if i % 50 == 7 else click(i)
    stamp = int(BASE.timestamp() * 1000) + 20_000 * i - (30_000 if i % 9 == 8 else 0)
    return value, stamp


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A broker with 700 clicks in one partition, ended with the module."""
    home = tmp_path_factory.mktemp("log") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TALLY_BOOTSTRAP_SERVERS", "TALLY_SCHEMA_REGISTRY_URL", "TALLY_FAILPOINT", "TALLY_OBJECT_STORE"):
            patch.delenv(name, raising=False)
        settings = Settings(home=home, partitions=1)
        try:
            ensure_topics(settings)
            producer = Producer(kafka_config(settings))
            for i in range(N):
                value, stamp = message(i)
                producer.produce("clicks", value, b"k", 0, timestamp=stamp)
            assert producer.flush(30) == 0
            yield home
        finally:
            broker.stop(settings)


@pytest.fixture
def here(logged, store, monkeypatch):
    """The settings of that home with an empty store of each kind."""
    monkeypatch.setenv("TALLY_HOME", str(logged))
    return _here(logged, store, monkeypatch)


@pytest.fixture
def on_disk(logged, folder_store, monkeypatch):
    """The same with a folder."""
    return _here(logged, folder_store, monkeypatch)


def _here(logged, store, monkeypatch):
    monkeypatch.setenv("TALLY_HOME", str(logged))
    if store.root is not None:
        monkeypatch.setenv("TALLY_OBJECT_STORE", f"file://{logged.parent / uuid.uuid4().hex}")
    settings = Settings()
    return settings, open_store(settings)


def upto(until, topic_id=None):
    return [Target("clicks", 0, until, topic_id)]


def spans(store):
    return [(s.first, s.next) for s in load(store, "clicks", 0).spans]


def kept(store):
    """(offset, event_id or None) of all that the archive has, and whether its stretches follow each other."""
    first, after = archived(store, "clicks")[0]
    found, at = [], first
    for batch in archive_scan(store, "clicks", 0, first, after):
        assert batch.raw.first == at
        at = batch.raw.next
        ids: list[str | None] = [None] * len(batch.raw.values)
        for row, name in zip(batch.rows.tolist(), batch.events["event_id"].to_pylist(), strict=True):
            ids[row] = name
        found += zip(batch.raw.offsets.tolist(), ids, strict=True)
    assert at == after
    return found


def wanted(until):
    return [(i, f"e{i}" if message(i)[0] not in (None, b"garbage") else None) for i in range(until)]
