"""The shipped views of the spine, an event at a time, in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

Event = dict[str, Any]
Rows = dict[tuple[Any, ...], tuple[Any, ...]]
MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1)


def floor(time: datetime, step: timedelta) -> datetime:
    """The greatest multiple of `step` since the epoch that is not after `time`."""
    return time - (time - EPOCH) % step


def revenue_per_minute(orders: Iterable[Event]) -> Rows:
    """(window_start, window_end, currency) -> (orders, revenue_cents)."""
    found: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for e in orders:
        if e["event_type"] == "OrderCreated":
            start = floor(e["event_time"], MINUTE)
            row = found[start, start + MINUTE, e["currency"]]
            row[0] += 1
            row[1] += e["total_cents"]
    return {k: tuple(v) for k, v in found.items()}


def clicks_per_minute(clicks: Iterable[Event]) -> Rows:
    """(window_start, window_end, event_type, category) -> (clicks,)."""
    found: dict[Any, int] = defaultdict(int)
    for e in clicks:
        start = floor(e["event_time"], MINUTE)
        found[start, start + MINUTE, e["event_type"], e["category"]] += 1
    return {k: (v,) for k, v in found.items()}


def top_products(clicks: Iterable[Event]) -> Rows:
    """(window_start, window_end, product_id) -> (views,): every minute, of the last five."""
    found: dict[Any, int] = defaultdict(int)
    for e in clicks:
        if e["event_type"] == "view":
            last = floor(e["event_time"], MINUTE)
            for back in range(5):
                start = last - back * MINUTE
                found[start, start + 5 * MINUTE, e["product_id"]] += 1
    return {k: (v,) for k, v in found.items()}


def order_status(orders: Iterable[Event]) -> Rows:
    """(order_id,) -> the newest event's fields, first and last time, events; ties of time by event_id."""
    by_order: dict[str, list[Event]] = defaultdict(list)
    for e in orders:
        by_order[e["order_id"]].append(e)

    def newest(events: list[Event], column: str) -> Any:
        told = [e for e in events if e[column] is not None]
        return max(told, key=lambda e: (e["event_time"], e["event_id"]))[column] if told else None

    columns = ("customer_id", "event_type", "total_cents", "currency")
    return {
        (order,): (
            *(newest(events, c) for c in columns),
            min(e["event_time"] for e in events),
            max(e["event_time"] for e in events),
            len(events),
        )
        for order, events in by_order.items()
    }


# View -> (topic, its oracle, the columns that tell a row from another, the columns told of it).
SHIPPED: dict[str, tuple[str, Callable[[Iterable[Event]], Rows], tuple[str, ...], tuple[str, ...]]] = {
    "revenue_per_minute": (
        "orders",
        revenue_per_minute,
        ("window_start", "window_end", "currency"),
        ("orders", "revenue_cents"),
    ),
    "clicks_per_minute": (
        "clicks",
        clicks_per_minute,
        ("window_start", "window_end", "event_type", "category"),
        ("clicks",),
    ),
    "top_products": ("clicks", top_products, ("window_start", "window_end", "product_id"), ("views",)),
    "order_status": (
        "orders",
        order_status,
        ("order_id",),
        ("customer_id", "status", "total_cents", "currency", "first_event_time", "last_event_time", "events"),
    ),
}
