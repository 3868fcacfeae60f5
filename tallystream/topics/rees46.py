"""The click data of REES46 (multi category store): CSV, a header, no quotes, each line ended.

Views and carts are clicks, purchases are orders of one item. Ids are line numbers of the file, so both
topics come from one file by two runs, and a file published twice is known as a copy.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tallystream.topics.contracts import Contract
from tallystream.topics.json_values import INT64

HEADER = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)
CLICKS = ("view", "cart", "remove_from_cart")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", re.ASCII)
PRICE = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)


def is_header(line: bytes) -> bool:
    """Whether a file's first line says that it is such a file."""
    return line.rstrip(b"\r\n") == ",".join(HEADER).encode()


def read_line(contract: Contract, number: int, line: bytes) -> dict[str, Any] | None:
    """The event of a data line, counted from 1; None when it belongs to another topic.

    Lines of the other topic are checked too: a file is good or it is not.

    Raises:
        ValueError: what is wrong, in words.
    """
    if not line.endswith(b"\n"):
        # Half a line can look whole: a price or an id with its last digits gone.
        raise ValueError("it has no line end: the file is cut here")
    fields = line.rstrip(b"\r\n").decode("utf-8").split(",")
    if len(fields) != len(HEADER):
        raise ValueError(f"{len(fields)} fields instead of {len(HEADER)}")
    time, kind, product, _, category, brand, price, user, session = fields
    at, cents = _micros(time), _cents(price)
    for name, value in (("user_id", user), ("product_id", product)):
        if not value:
            raise ValueError(f"{name} is empty")
    topic = "clicks" if kind in CLICKS else "orders" if kind == "purchase" else None
    if topic is None:
        raise ValueError(f"event_type {kind!r} is none of {', '.join((*CLICKS, 'purchase'))}")
    if topic != contract.topic:
        return None
    values: tuple[Any, ...]
    event_id = f"rees46-{number}"
    if topic == "orders":
        item = {"product_id": product, "quantity": 1, "unit_price_cents": cents}
        values = (event_id, "OrderCreated", at, event_id, user, [item], cents, "USD")
    else:
        values = (event_id, kind, at, user, session or None, product, category or None, brand or None, None, cents)
    return dict(zip(contract.arrow.names, values, strict=True))


def _micros(text: str) -> int:
    if not TIME.fullmatch(text):
        raise ValueError(f"event_time {text!r} is no time like 2019-10-01 00:00:00 UTC")
    return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp()) * 1_000_000


def _cents(text: str) -> int:
    if not PRICE.fullmatch(text):
        raise ValueError(f"price {text!r} is no amount like 33.20")
    cents = Decimal(text) * 100
    if cents != int(cents) or int(cents) not in INT64:
        raise ValueError(f"price {text} is not in whole cents")
    return int(cents)
