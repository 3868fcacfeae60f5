"""What becomes of every message of a partition, one at a time, by DESIGN's three rules."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import fastavro

from . import json_rules
from .avro_rules import broken_rule

EPOCH = datetime(1970, 1, 1)
LIFE = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)


@dataclass(frozen=True)
class Message:
    """One record of a partition, as a consumer gives it; `stamp`: ms since the epoch, None when it has none."""

    offset: int
    stamp: int | None
    key: bytes | None
    value: bytes | None


@dataclass
class Account:
    """One partition's books."""

    applied: list[dict[str, Any]] = field(default_factory=list)
    duplicate: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    newest: datetime | None = None

    def counts(self) -> dict[str, int]:
        """As the ledger's columns."""
        found = Counter({name: len(getattr(self, name)) for name in ("applied", "duplicate", "late", "dead")})
        return {**found, "consumed": sum(found.values()), "shed": 0}


KEYS = {"orders": "order_id", "clicks": "user_id"}
ORDER_TYPES = {"OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled", "heartbeat"}


def decode(
    key: bytes | None, value: bytes | None, schemas: dict[int, Any], topic: str | None = None
) -> dict[str, Any] | None:
    """The event, or None when the message is dead; JSON and another topic's events are known when `topic` is told."""
    if value is None:
        return None
    event = _json(value, schemas, topic) if topic and value[:1] == b"{" else _avro(value, schemas)
    if event is None or (topic and KEYS[topic] not in event) or not _keeps_the_contract(key, event):
        return None
    event["event_time"] = event["event_time"].replace(tzinfo=None)
    return event if LIFE[0] <= event["event_time"] <= LIFE[1] else None


def _json(value: bytes, schemas: dict[int, Any], topic: str) -> dict[str, Any] | None:
    own = [s for s in schemas.values() if KEYS[topic] in [f["name"] for f in s["fields"]]]
    return json_rules.read(value, own[0])


def _avro(value: bytes, schemas: dict[int, Any]) -> dict[str, Any] | None:
    if len(value) < 6 or value[0] != 0:
        return None
    schema = schemas.get(int.from_bytes(value[1:5], "big"))
    if schema is None or broken_rule(value, schema):
        return None
    datum = io.BytesIO(value[5:])
    try:
        event: dict[str, Any] = fastavro.schemaless_reader(datum, schema, None)
    except Exception:
        # fastavro answers hostile bytes with whatever its parser stumbled over.
        return None
    return None if datum.read(1) else event


def _keeps_the_contract(key: bytes | None, event: dict[str, Any]) -> bool:
    """The key names the entity, ids and types say something, amounts are not negative."""
    is_order = "order_id" in event
    named = event["order_id"] if is_order else event["user_id"]
    if not event["event_id"] or not event["event_type"] or not named or key != named.encode():
        return False
    if not is_order:
        return event["price_cents"] is None or event["price_cents"] >= 0
    amounts = [event["total_cents"], *(i[n] for i in event["items"] for n in ("quantity", "unit_price_cents"))]
    return event["event_type"] in ORDER_TYPES and min(amounts) >= 0


def judge(
    messages: Iterable[Message],
    schemas: dict[int, Any],
    lateness: timedelta = timedelta(seconds=600),
    horizon: timedelta = timedelta(seconds=3600),
    ahead: timedelta = timedelta(seconds=3600),
    topic: str | None = None,
) -> Account:
    """The books of one partition."""
    books = Account()
    seen: dict[str, datetime] = {}
    for m in messages:
        event = decode(m.key, m.value, schemas, topic)
        if event is None:
            books.dead.append(m.offset)
            continue
        time = event["event_time"]
        if m.stamp is not None and time > EPOCH + timedelta(milliseconds=m.stamp) + ahead:
            books.dead.append(m.offset)
        elif books.newest is not None and books.newest - time > lateness:
            books.late.append(m.offset)
        elif (
            books.newest is not None and event["event_id"] in seen and books.newest - seen[event["event_id"]] <= horizon
        ):
            books.duplicate.append(m.offset)
        else:
            books.applied.append(event)
            seen[event["event_id"]] = max(time, seen.get(event["event_id"], time))
            books.newest = time if books.newest is None else max(books.newest, time)
    return books
