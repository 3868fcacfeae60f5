"""The shipped views, an event at a time, in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

Event = dict[str, Any]
# A list of rows where the key may repeat.
Rows = dict[tuple[Any, ...], Any]
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
    """(window_start, window_end, event_type, category) -> (clicks, visitors)."""
    found: dict[Any, list[str]] = defaultdict(list)
    for e in clicks:
        start = floor(e["event_time"], MINUTE)
        found[start, start + MINUTE, e["event_type"], e["category"]].append(e["user_id"])
    return {k: (len(users), len(set(users))) for k, users in found.items()}


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
    """(order_id,) -> the newest event's fields, first and last time, events; ties of time by event_id, then by the value."""
    by_order: dict[str, list[Event]] = defaultdict(list)
    for e in orders:
        by_order[e["order_id"]].append(e)

    def newest(events: list[Event], column: str) -> Any:
        told = [e for e in events if e[column] is not None]
        return max((e["event_time"], e["event_id"], e[column]) for e in told)[2] if told else None

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


def sessions(events: Iterable[Event]) -> Rows:
    """(user_id, window_start, window_end) -> what a visit was: neighbours in time less than 30 minutes apart."""
    gap = timedelta(minutes=30)
    by_user: dict[str, list[Event]] = defaultdict(list)
    for e in events:
        if "user_id" in e:
            by_user[e["user_id"]].append(e)
        elif e["event_type"] == "OrderCreated":
            by_user[e["customer_id"]].append({**e, "url": None, "product_id": None})
    found: Rows = {}
    for user, theirs in by_user.items():
        visits: list[list[Event]] = []
        for e in sorted(theirs, key=lambda e: (e["event_time"], e["event_id"])):
            if visits and e["event_time"] - visits[-1][-1]["event_time"] < gap:
                visits[-1].append(e)
            else:
                visits.append([e])
        for visit in visits:
            urls = [e["url"] for e in visit if e["url"] is not None]
            found[user, visit[0]["event_time"], visit[-1]["event_time"] + gap] = (
                sum(e["event_type"] != "OrderCreated" for e in visit),
                sum(e["event_type"] == "cart" for e in visit),
                urls[0] if urls else None,
                urls[-1] if urls else None,
                len({e["product_id"] for e in visit} - {None}),
                any(e["event_type"] == "OrderCreated" for e in visit),
            )
    return found


def _attributed(events: Iterable[Event], last: bool) -> Rows:
    """(order_id, order_time) -> customer, cents, and the last or first click in the 30 minutes up to the order."""
    clicks: dict[str, list[Event]] = defaultdict(list)
    orders = []
    for e in events:
        if "user_id" in e:
            clicks[e["user_id"]].append(e)
        elif e["event_type"] == "OrderCreated":
            orders.append(e)
    found: Rows = {}
    for o in orders:
        at = o["event_time"]
        near = [c for c in clicks[o["customer_id"]] if at - timedelta(minutes=30) <= c["event_time"] <= at]
        near.sort(key=lambda c: (c["event_time"], c["event_id"]))
        click = near[-1 if last else 0] if near else {}
        told = (click.get(name) for name in ("event_id", "event_type", "event_time", "product_id"))
        found.setdefault((o["order_id"], at), []).append((o["customer_id"], o["total_cents"], *told))
    return found


def order_attribution(events: Iterable[Event]) -> Rows:
    """Each order with its last click."""
    return _attributed(events, last=True)


def order_first_click(events: Iterable[Event]) -> Rows:
    """Each order with its first click."""
    return _attributed(events, last=False)


ATTRIBUTED = ("customer_id", "total_cents", "click_id", "click_type", "click_time", "click_product_id")
# View -> (topics, its oracle, the columns that tell a row from another, the columns told of it).
SHIPPED: dict[str, tuple[tuple[str, ...], Callable[[Iterable[Event]], Rows], tuple[str, ...], tuple[str, ...]]] = {
    "revenue_per_minute": (
        ("orders",),
        revenue_per_minute,
        ("window_start", "window_end", "currency"),
        ("orders", "revenue_cents"),
    ),
    "clicks_per_minute": (
        ("clicks",),
        clicks_per_minute,
        ("window_start", "window_end", "event_type", "category"),
        ("clicks", "visitors"),
    ),
    "top_products": (("clicks",), top_products, ("window_start", "window_end", "product_id"), ("views",)),
    "order_status": (
        ("orders",),
        order_status,
        ("order_id",),
        ("customer_id", "status", "total_cents", "currency", "first_event_time", "last_event_time", "events"),
    ),
    "sessions": (
        ("clicks", "orders"),
        sessions,
        ("user_id", "window_start", "window_end"),
        ("clicks", "carts", "first_url", "last_url", "products", "ordered"),
    ),
    "order_attribution": (("clicks", "orders"), order_attribution, ("order_id", "order_time"), ATTRIBUTED),
    "order_first_click": (("clicks", "orders"), order_first_click, ("order_id", "order_time"), ATTRIBUTED),
}
