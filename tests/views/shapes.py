"""One view of every shape, with what it must show written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.views.by_hand import (
    Event,
    S,
    greatest,
    group,
    hop,
    items,
    least,
    mean,
    nearest,
    newest,
    session,
    told,
    total,
    tumble,
)  # fmt: skip

Rows = list[tuple[Any, ...]]
Events = dict[str, list[Event]]


def bounds(e: Event) -> tuple[Any, ...]:
    return e["window_start"], e["window_end"]


def all_aggregates(e: Events) -> Rows:
    groups = group(tumble(e["clicks"], 10 * S, 3 * S), lambda r: (*bounds(r), r["event_type"]))
    return [
        (*k, len(m), total(m, "price_cents"), least(m, "brand"), greatest(m, "price_cents"), mean(told(m, "price_cents")),
         newest(m, "url", oldest=True), newest(m, "url"), len(set(told(m, "product_id"))))
        for k, m in groups.items()
    ]  # fmt: skip


def distinct_hop(e: Events) -> Rows:
    groups = group(hop(e["clicks"], 3 * S, 10 * S), lambda r: (*bounds(r), r["product_id"]))
    return [
        (*k, len(m), len({r["user_id"] for r in m}), len({r["brand"] for r in m if r["event_type"] == "cart"} - {None}))
        for k, m in groups.items()
    ]


def expressions(e: Events) -> Rows:
    groups = group(
        (r for r in tumble(e["clicks"], 15 * S) if r["event_type"] != "cart"),
        lambda r: (
            *bounds(r),
            "none" if r["brand"] is None else r["brand"],
            "dear" if (r["price_cents"] or 0) >= 50 else "cheap",
        ),
    )
    found = []
    for (start, end, brand, kind), m in groups.items():
        cents = total(m, "price_cents")
        views = sum(r["event_type"] == "view" for r in m)
        if len(m) > 1 or cents is None:
            per = None if cents is None else cents / len(m)
            found.append(
                (
                    start,
                    end,
                    brand,
                    kind,
                    per,
                    views,
                    f"{brand}:{len(m)}",
                    int((start - end).total_seconds()) * -1,
                    any(r["url"] is not None for r in m),
                )
            )
    return found


def session_rows(e: Events) -> Rows:
    groups = group(session(e["clicks"], "product_id", 5 * S), lambda r: (r["product_id"], *bounds(r)))
    return [
        (*k, len(m), total(m, "price_cents"), len({r["user_id"] for r in m}), newest(m, "url", oldest=True))
        for k, m in groups.items()
    ]


def session_split(e: Events) -> Rows:
    rows = (r for r in session(e["clicks"], "user_id", 7 * S) if r["brand"] is not None)
    groups = group(rows, lambda r: (*bounds(r), r["user_id"], r["event_type"]))
    return [(*k, len(m), mean(told(m, "price_cents"))) for k, m in groups.items()]


def activity_sessions(e: Events) -> Rows:
    orders = [{**o, "user_id": o["customer_id"]} for o in e["orders"] if o["event_type"] == "OrderCreated"]
    groups = group(session([*e["clicks"], *orders], "user_id", 6 * S), lambda r: (r["user_id"], *bounds(r)))
    return [
        (*k, len(m), any(r["event_type"] == "OrderCreated" for r in m), sum(r.get("total_cents", 0) for r in m))
        for k, m in groups.items()
    ]


def item_hop(e: Events) -> Rows:
    groups = group(hop(items(e["orders"]), 5 * S, 10 * S), lambda r: (*bounds(r), r["product_id"]))
    return [
        (*k, sum(r["quantity"] * r["unit_price_cents"] for r in m), len({r["order_id"] for r in m}))
        for k, m in groups.items()
    ]


def latest(e: Events) -> Rows:
    groups = group(e["orders"], lambda r: (r["order_id"],))
    return [
        (*k, newest(m, "event_type"), max(r["event_time"] for r in m), len(m), all(r["total_cents"] < 500 for r in m))
        for k, m in groups.items()
    ]


def _clicked(
    e: Events, fits: Callable[[Any, Any], bool], last: bool, kind: str | None = None
) -> list[tuple[Event, Event]]:
    rights = [c for c in e["clicks"] if kind is None or c["event_type"] == kind]
    created = [o for o in e["orders"] if o["event_type"] == "OrderCreated"]
    return [(o, nearest(o, rights, ("customer_id", "user_id"), fits, last) or {}) for o in created]


def last_click(e: Events) -> Rows:
    return [
        (o["order_id"], o["event_time"], c.get("event_id"), c.get("url"))
        for o, c in _clicked(e, lambda at, t: t <= at, last=True)
    ]


def last_click_near(e: Events) -> Rows:
    found = []
    for o, c in _clicked(e, lambda at, t: t <= at, last=True):
        near = bool(c) and c["event_time"] >= o["event_time"] - 8 * S
        found.append((o["order_id"], c["event_id"] if near else None, c["brand"] if near else None))
    return found


def first_click(e: Events) -> Rows:
    return [
        (o["order_id"], o["event_time"], c.get("event_id"))
        for o, c in _clicked(e, lambda at, t: at - 8 * S <= t <= at, last=False)
    ]


def last_cart_before(e: Events) -> Rows:
    return [
        (o["order_id"], c["event_id"], c["event_time"])
        for o, c in _clicked(e, lambda at, t: t < at + 2 * S, last=True, kind="cart") if c
    ]  # fmt: skip


SHAPES: dict[str, tuple[str, Callable[[Events], Rows]]] = {
    "all_aggregates": (
        "SELECT window_start, window_end, event_type, count(*) AS n, sum(price_cents) AS cents, min(brand) AS low, "
        "max(price_cents) AS high, avg(price_cents) AS mean, arg_min(url, event_time) AS first_url, "
        "arg_max(url, event_time) AS last_url, count(DISTINCT product_id) AS products "
        "FROM tumble(clicks, INTERVAL 10 SECONDS, shift := INTERVAL 3 SECONDS) GROUP BY ALL",
        all_aggregates,
    ),
    "distinct_hop": (
        "SELECT window_start, window_end, product_id, count(*) AS n, count(DISTINCT user_id) AS users, "
        "count(DISTINCT brand) FILTER (WHERE event_type = 'cart') AS brands "
        "FROM hop(clicks, INTERVAL 3 SECONDS, INTERVAL 10 SECONDS) GROUP BY ALL",
        distinct_hop,
    ),
    "expressions": (
        "SELECT c.window_start, window_end, coalesce(brand, 'none') AS brand_name, "
        "CASE WHEN coalesce(price_cents, 0) >= 50 THEN 'dear' ELSE 'cheap' END AS kind, "
        "sum(price_cents) / count(*) AS per_event, count(*) FILTER (WHERE event_type = 'view') AS views, "
        "coalesce(brand, 'none') || ':' || CAST(count(*) AS VARCHAR) AS label, "
        "CAST(epoch(window_end - window_start) AS BIGINT) AS seconds, bool_or(url IS NOT NULL) AS has_url "
        "FROM tumble(clicks, INTERVAL 15 SECONDS) AS c WHERE event_type <> 'cart' "
        "GROUP BY window_start, window_end, coalesce(brand, 'none'), kind HAVING count(*) > 1 OR sum(price_cents) IS NULL",
        expressions,
    ),
    "session_rows": (
        "SELECT product_id, window_start, window_end, count(*) AS n, sum(price_cents) AS cents, "
        "count(DISTINCT user_id) AS users, arg_min(url, event_time) AS first_url "
        "FROM session(clicks, product_id, INTERVAL 5 SECONDS) GROUP BY ALL",
        session_rows,
    ),
    "session_split": (
        "SELECT window_start, window_end, user_id, event_type, count(*) AS n, avg(price_cents) AS mean "
        "FROM session(clicks, user_id, INTERVAL 7 SECONDS) WHERE brand IS NOT NULL GROUP BY ALL",
        session_split,
    ),
    "activity_sessions": (
        "SELECT user_id, window_start, window_end, count(*) AS n, count_if(event_type = 'OrderCreated') > 0 AS ordered, "
        "coalesce(sum(total_cents), 0) AS cents FROM session(activity, user_id, INTERVAL 6 SECONDS) GROUP BY ALL",
        activity_sessions,
    ),
    "item_hop": (
        "SELECT window_start, window_end, product_id, sum(quantity * unit_price_cents) AS cents, "
        "count(DISTINCT order_id) AS orders FROM hop(order_items, INTERVAL 5 SECONDS, INTERVAL 10 SECONDS) GROUP BY ALL",
        item_hop,
    ),
    "latest": (
        "SELECT order_id, arg_max(event_type, event_time) AS status, max(event_time) AS at, count(*) AS n, "
        "bool_and(total_cents < 500) AS small FROM orders GROUP BY order_id",
        latest,
    ),
    "last_click": (
        "SELECT o.order_id, o.event_time AS at, c.event_id AS click_id, c.url FROM orders AS o ASOF LEFT JOIN clicks AS c "
        "ON o.customer_id = c.user_id AND o.event_time >= c.event_time WHERE o.event_type = 'OrderCreated'",
        last_click,
    ),
    "last_click_near": (
        "SELECT order_id, CASE WHEN c.event_time >= o.event_time - INTERVAL 8 SECONDS THEN c.event_id END AS click_id, "
        "CASE WHEN c.event_time >= o.event_time - INTERVAL 8 SECONDS THEN '' || brand END AS brand "
        "FROM orders AS o ASOF LEFT JOIN clicks AS c ON c.user_id = o.customer_id AND c.event_time <= o.event_time "
        "WHERE o.event_type = 'OrderCreated'",
        last_click_near,
    ),
    "first_click": (
        "SELECT order_id, o.event_time AS at, CASE WHEN c.event_time <= o.event_time THEN c.event_id END AS click_id "
        "FROM orders o ASOF LEFT JOIN clicks c ON o.customer_id = c.user_id AND o.event_time - INTERVAL 8 SECONDS <= c.event_time "
        "WHERE o.event_type = 'OrderCreated'",
        first_click,
    ),
    "last_cart_before": (
        "SELECT o.order_id, c.event_id AS click_id, c.event_time AS click_time FROM orders AS o ASOF JOIN clicks AS c "
        "ON o.customer_id = c.user_id AND c.event_type = 'cart' AND o.event_time + INTERVAL 2 SECONDS > c.event_time "
        "WHERE o.event_type = 'OrderCreated'",
        last_cart_before,
    ),
}  # fmt: skip
# Which of several events at one time the file's own SQL takes is open: there our rule is in `batch_sql` alone.
TIES = {"all_aggregates", "session_rows", "latest", "last_click", "last_click_near", "first_click", "last_cart_before"}
# Whose own SQL the ON clause of a join ASOF gives another sense to: see docs/views.md.
