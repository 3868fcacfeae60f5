"""NDJSON: one event a line, every field of the contract, times as ISO 8601 UTC."""

from __future__ import annotations

from typing import Any

from tallystream.topics.contracts import Contract
from tallystream.topics.json_values import parse_event

ORDER_TYPES = ("OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled")


def read_line(contract: Contract, _number: int, line: bytes) -> dict[str, Any] | None:
    """The event of a line; None for a blank one. Fields that may be null may be left out.

    Stricter than decoding: a producer's mistake is found here, before anything is in the log for ever.

    Raises:
        ValueError: what is wrong, in words.
    """
    text = line.decode("utf-8", errors="strict").strip()
    if not text:
        return None
    event = parse_event(contract, text)
    for name in contract.required:
        if event[name] == "":
            raise ValueError(f"{name} is empty")
    if contract.topic == "orders":
        _check_order(event)
    return event


def _check_order(event: dict[str, Any]) -> None:
    if event["event_type"] not in ORDER_TYPES:
        raise ValueError(f"event_type {event['event_type']!r} is none of {', '.join(ORDER_TYPES)}")
    if not event["items"]:
        raise ValueError("items is empty: an order has at least one")
    total = sum(item["quantity"] * item["unit_price_cents"] for item in event["items"])
    if event["total_cents"] != total:
        raise ValueError(f"total_cents is {event['total_cents']}, but the items come to {total}")
