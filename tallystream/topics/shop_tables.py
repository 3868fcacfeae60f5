"""The shop's catalogue, and its events as columns of the contracts.

What an order holds is a hash of its number: its steps tell the same items without anyone keeping them.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.topics.contracts import contract

PRODUCTS = 5000
USERS = 50_000
ZIPF = 1.1  # exponent of product popularity: the first product has a tenth of the views
CLICK_KINDS = 2  # kinds below are clicks
KINDS = ("view", "cart", "OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled")
CATEGORIES = (
    "electronics.smartphone",
    "electronics.audio.headphone",
    "electronics.clocks",
    "computers.notebook",
    "appliances.kitchen.washer",
    "furniture.living_room.sofa",
    "apparel.shoes",
    "kids.toys",
    None,
)
BRANDS = ("aurora", "borealis", "cirrus", "delta", "ember", "fjord", "gale", None)
CURRENCIES = ("USD", "EUR", "GBP")
CURRENCY_SHARES = (0.6, 0.9)  # up to which share each but the last reaches
MOST_ITEMS = 3


def mix(numbers: np.ndarray, salt: int) -> np.ndarray:
    """A hash of integers, 64 bits (the finaliser of splitmix64, by Sebastiano Vigna)."""
    with np.errstate(over="ignore"):
        x: np.ndarray = numbers.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


def share(numbers: np.ndarray, salt: int) -> np.ndarray:
    """A hash as a float in [0, 1)."""
    found: np.ndarray = (mix(numbers, salt) >> np.uint64(11)) * 2.0**-53
    return found


@lru_cache(maxsize=1)
def _popularity() -> np.ndarray:
    weights = np.arange(1, PRODUCTS + 1) ** -ZIPF
    return np.asarray(np.cumsum(weights) / weights.sum())


def _texts(values: list[str | None]) -> pa.Array[Any]:
    return pa.array(values, pa.string())


class Catalogue:
    """Products with prices, categories and brands; who shops, and what an order holds, for one seed."""

    def __init__(self, seed: int):
        self.seed = seed

    def popular(self, at: np.ndarray) -> np.ndarray:
        """Products by Zipf popularity, from numbers in [0, 1)."""
        return np.minimum(np.searchsorted(_popularity(), at), PRODUCTS - 1).astype(np.int32)

    def user(self, sessions: np.ndarray) -> np.ndarray:
        """Who the session belongs to; a few come often, most seldom."""
        return (share(sessions, self.seed * 16 + 1) ** 2 * USERS).astype(np.int64)

    def items(self, orders: np.ndarray) -> np.ndarray:
        """How many items an order has, 1 to 3."""
        return (mix(orders, self.seed * 16 + 2) % np.uint64(MOST_ITEMS)).astype(np.int64) + 1

    def item(self, orders: np.ndarray, place: int) -> np.ndarray:
        """The product at a place of an order."""
        return self.popular(share(orders * MOST_ITEMS + place, self.seed * 16 + 3))

    def quantity(self, orders: np.ndarray, place: int) -> np.ndarray:
        """How many of it, 1 or 2, seldom 3."""
        at = share(orders * MOST_ITEMS + place, self.seed * 16 + 4)
        return 1 + (at > 0.7).astype(np.int64) + (at > 0.95)

    def currency(self, orders: np.ndarray) -> pa.Array[Any]:
        """The currency of an order."""
        at = np.searchsorted(CURRENCY_SHARES, share(orders, self.seed * 16 + 5), side="right")
        found: pa.Array[Any] = _texts(list(CURRENCIES)).take(pa.array(at, pa.int64()))
        return found

    @cached_property
    def prices(self) -> np.ndarray:
        """Cents, by product: from 99 cents to some thousands, most below a hundred."""
        return np.asarray(99 + (share(np.arange(PRODUCTS), 6) ** 4 * 200_000).astype(np.int64))


@lru_cache(maxsize=1)
def _products() -> tuple[pa.Array[Any], pa.Array[Any], pa.Array[Any], pa.Array[Any], pa.Array[Any]]:
    """By product: id, category, brand, url. And the users' ids."""
    numbers = np.arange(PRODUCTS)
    ids = [f"p{i:05d}" for i in range(PRODUCTS)]
    categories = [CATEGORIES[i] for i in (mix(numbers, 7) % np.uint64(len(CATEGORIES))).tolist()]
    brands = [BRANDS[i] for i in (mix(numbers, 8) % np.uint64(len(BRANDS))).tolist()]
    urls: list[str | None] = [f"https://shop.example/product/{i}" for i in ids]
    users: list[str | None] = [f"u{i:06d}" for i in range(USERS)]
    return _texts([*ids]), _texts(categories), _texts(brands), _texts(urls), _texts(users)


def _named(prefix: str, numbers: np.ndarray) -> pa.Array[Any]:
    found: pa.Array[Any] = pc.binary_join_element_wise(prefix, pa.array(numbers).cast(pa.string()), "")
    return found


def _event_ids(catalogue: Catalogue, rows: np.ndarray) -> pa.Array[Any]:
    # The seed is part of every id: two shops in one topic are no copies of one another.
    return _named(f"{catalogue.seed:x}-", rows["serial"])


def _column(values: np.ndarray) -> pa.Array[Any]:
    found: pa.Array[Any] = pa.array(np.ascontiguousarray(values))
    return found


def clicks_table(catalogue: Catalogue, rows: np.ndarray) -> pa.Table:
    """Rows of clicks as the contract's columns."""
    product = _column(rows["product"])
    ids, categories, brands, urls, users = _products()
    columns = [
        _event_ids(catalogue, rows),
        _texts(list(KINDS)).take(_column(rows["kind"])),
        _column(rows["time"]).cast(pa.timestamp("us")),
        users.take(pa.array(catalogue.user(rows["session"]))),
        _named(f"{catalogue.seed:x}-s", rows["session"]),
        ids.take(product),
        categories.take(product),
        brands.take(product),
        urls.take(product),
        pa.array(catalogue.prices[rows["product"]]),
    ]
    return pa.Table.from_arrays(columns, schema=contract("clicks").arrow)


def orders_table(catalogue: Catalogue, rows: np.ndarray) -> pa.Table:
    """Rows of orders as the contract's columns; total_cents is the sum of the items."""
    orders = np.ascontiguousarray(rows["session"])
    held = catalogue.items(orders)
    products = np.stack([catalogue.item(orders, i) for i in range(MOST_ITEMS)], axis=1)
    quantities = np.stack([catalogue.quantity(orders, i) for i in range(MOST_ITEMS)], axis=1)
    cents = catalogue.prices[products]
    there = np.arange(MOST_ITEMS) < held[:, None]
    ids, _, _, _, users = _products()
    contracted = contract("orders").arrow
    items = pa.StructArray.from_arrays(
        [ids.take(pa.array(products[there], pa.int32())), pa.array(quantities[there]), pa.array(cents[there])],
        fields=list(contracted.field("items").type.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(held)]).astype(np.int32)
    columns = [
        _event_ids(catalogue, rows),
        _texts(list(KINDS)).take(_column(rows["kind"])),
        _column(rows["time"]).cast(pa.timestamp("us")),
        _named(f"{catalogue.seed:x}-o", orders),
        users.take(pa.array(catalogue.user(orders))),
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, type=contracted.field("items").type),
        pa.array((quantities * cents * there).sum(axis=1)),
        catalogue.currency(orders),
    ]
    return pa.Table.from_arrays(columns, schema=contracted)
