"""A synthetic shop: users click, some fill a cart, some of those order, stock is reserved, payments complete.

A function of the seed alone: the same seed gives the same events, ids included, relative to `start`.
Events are rows of small integers until the last moment, so that sorting and mixing them is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tallystream.errors import UsageError
from tallystream.settings import TOPICS
from tallystream.topics.shop_tables import CLICK_KINDS, Catalogue, clicks_table, orders_table

VIEW, CART, CREATED, RESERVED, PAID, CANCELLED = range(6)
ORDER_KINDS = (CREATED, RESERVED, PAID, CANCELLED)
EVENT = np.dtype(
    [
        ("arrival", np.int64),  # microseconds since the epoch: when it is sent
        ("time", np.int64),  # microseconds since the epoch: its event_time
        ("serial", np.int64),  # its place in time, and so its event_id
        ("session", np.int64),
        ("product", np.int32),
        ("kind", np.int8),
        ("copy", np.bool_),
    ]
)
BLOCK = 8192  # sessions simulated at once: some 40 k events, enough to vectorise
COPY_WITHIN = 5_000_000  # microseconds in which a copy follows its event: far within any sane lateness
SESSIONS_A_SECOND = 10.0  # of the simulation's own clock; only the order of events is taken from it
THINKING = 8.0  # seconds between two steps of a session, on average
CART_SHARE, ORDER_SHARE, CANCEL_SHARE = 0.4, 0.5, 0.1  # of sessions, of those with a cart, of orders
LEAST_SPAN = 300  # seconds that a small shop stretches over, so that minutes differ
USUAL_RATE = 1000.0  # events a second of event time: two runs of half a million in a row make nothing late


@dataclass(frozen=True)
class Shop:
    """What to simulate.

    Args:
        events: distinct events over all topics, exactly.
        seed: chooses everything but the times' origin.
        start: event_time of the first event, microseconds since the epoch.
        rate: events a second of event time; None: `usual_rate(events)`.
        duplicates: share of events of which an exact copy follows within five seconds.
        disorder: seconds by which an event may arrive late; below the lateness nothing is judged late.
        topics: events of other topics are left out.
    """

    events: int
    seed: int
    start: int
    rate: float | None = None
    duplicates: float = 0.0
    disorder: float = 0.0
    topics: tuple[str, ...] = TOPICS

    def __post_init__(self) -> None:
        """Refuses what no shop can be.

        Raises:
            UsageError: a number out of its range.
        """
        if self.events < 0 or self.seed < 0 or not 0 <= self.duplicates <= 1 or self.disorder < 0:
            raise UsageError("events, seed and disorder may not be negative, and duplicates is a share from 0 to 1")
        if not self.topics or set(self.topics) - set(TOPICS):
            raise UsageError(f"topics of the shop are {' and '.join(TOPICS)}")

    @property
    def step(self) -> float:
        """Microseconds of event time from one event to the next."""
        return 1e6 / (self.rate or usual_rate(self.events))


def usual_rate(events: int) -> float:
    """Events a second of event time when nobody asks for a rate."""
    return min(USUAL_RATE, max(events, 1) / LEAST_SPAN)


def arrivals(shop: Shop) -> Iterator[np.ndarray]:
    """All events and copies as EVENT rows, in order of arrival, in pieces of some ten thousand."""
    waiting = np.empty(0, EVENT)
    rng = np.random.default_rng([shop.seed, 1])
    copies = serial = 0
    for rows in _in_time(shop):
        rows["serial"] = np.arange(serial, serial + len(rows))
        serial += len(rows)
        rows["time"] = shop.start + (rows["serial"] * shop.step).astype(np.int64)
        rows["arrival"] = rows["time"] + (rng.random(len(rows)) * shop.disorder * 1e6).astype(np.int64)
        # Of all events so far, not of this piece: a small share gives its due over many pieces.
        due = min(len(rows), int(serial * shop.duplicates + 1e-6) - copies)
        copied = rows[rng.choice(len(rows), due, replace=False)]
        copies += due
        copied["copy"] = True
        copied["arrival"] += rng.integers(1, COPY_WITHIN, len(copied))
        waiting = np.concatenate([waiting, rows, copied])
        # What comes next has a later event_time, and no event arrives before its time.
        ready = waiting["arrival"] <= rows["time"][-1]
        yield _by_arrival(waiting[ready])
        waiting = waiting[~ready]
    if len(waiting):
        yield _by_arrival(waiting)


def _by_arrival(rows: np.ndarray) -> np.ndarray:
    # An event before its copy, whatever the clock's grain.
    ordered: np.ndarray = rows[np.lexsort((rows["serial"], rows["copy"], rows["arrival"]))]
    return ordered


def _in_time(shop: Shop) -> Iterator[np.ndarray]:
    """The events of all sessions in the order of the simulation's clock; sessions overlap."""
    waiting = np.empty(0, EVENT)
    left = shop.events
    block = 0
    while left > 0:
        rows = _sessions(shop, block)
        # The last session is cut short, so that the number of events is exact and all orders before it complete.
        rows = rows[:left]
        left -= len(rows)
        block += 1
        waiting = np.concatenate([waiting, rows])
        waiting = waiting[np.argsort(waiting["arrival"], kind="stable")]
        if left > 0:
            upto = int(np.searchsorted(waiting["arrival"], int(block * BLOCK / SESSIONS_A_SECOND * 1e6)))
            if upto:
                yield waiting[:upto].copy()
            waiting = waiting[upto:]
    if len(waiting):
        yield waiting


def _sessions(shop: Shop, block: int) -> np.ndarray:
    """One block of sessions, session after session; `arrival` holds the simulation's clock."""
    rng = np.random.default_rng([shop.seed, 0, block])
    first = block * BLOCK
    begins = (first + np.arange(BLOCK) + rng.random(BLOCK)) / SESSIONS_A_SECOND
    views = np.minimum(rng.geometric(0.25, BLOCK), 12)
    carts = rng.random(BLOCK) < CART_SHARE
    orders = carts & (rng.random(BLOCK) < ORDER_SHARE)
    cancelled = rng.random(BLOCK) < CANCEL_SHARE
    size = views + carts + 3 * orders
    owner = np.repeat(np.arange(BLOCK), size)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size)
    rows = np.zeros(len(owner), EVENT)
    rows["session"] = first + owner
    past_cart = place - views[owner] - 1
    last = np.where(cancelled, CANCELLED, PAID)[owner]
    rows["kind"] = np.select(
        [past_cart < -1, past_cart == -1, past_cart == 0, past_cart == 1], [VIEW, CART, CREATED, RESERVED], last
    )
    waits = rng.exponential(THINKING, len(owner))
    clock = np.cumsum(waits)
    clock -= np.repeat(clock[np.cumsum(size) - size], size)
    rows["arrival"] = ((begins[owner] + clock) * 1e6).astype(np.int64)
    catalogue = Catalogue(shop.seed)
    rows["product"] = catalogue.popular(rng.random(len(owner)))
    bought = rows["kind"] == CART
    rows["product"][bought] = catalogue.item(rows["session"][bought], 0)
    wanted = np.isin(rows["kind"], ORDER_KINDS)
    if set(shop.topics) == set(TOPICS):
        return rows
    return rows[wanted] if "orders" in shop.topics else rows[~wanted]


def tables(shop: Shop, rows: np.ndarray) -> Iterator[tuple[str, pa.Table]]:
    """EVENT rows as columns of the contracts, by topic, in the order of the rows."""
    clicks = rows["kind"] < CLICK_KINDS
    catalogue = Catalogue(shop.seed)
    if not clicks.all():
        yield "orders", orders_table(catalogue, rows[~clicks])
    if clicks.any():
        yield "clicks", clicks_table(catalogue, rows[clicks])


def shop_events(
    n: int,
    seed: int,
    start: int = 1_767_225_600_000_000,
    duplicates: float = 0.0,
    disorder: float = 0.0,
    rate: float | None = None,
) -> Iterator[tuple[str, pa.Table]]:
    """The events of a shop as (topic, columns of its contract), in order of arrival within a topic.

    `start` is in microseconds since the epoch, 2026-01-01 by default; the rest as in `Shop`.
    """
    shop = Shop(n, seed, start, rate, duplicates, disorder)
    for rows in arrivals(shop):
        yield from tables(shop, rows)
