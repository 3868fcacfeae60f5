"""Events for streams that are killed: copies, disorder, late ones and garbage, by a seed."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from tallystream.settings import Settings
from tallystream.topics.publish import send_all
from tests.warehouse.stream import encode

Pairs = list[tuple[bytes | None, bytes | None]]
GARBAGE = (None, b"", b"\0\0\0\0\x02", b"\0\0\0\0\x63x", b"{}")
KINDS = ("OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled")


class Shop:
    """Makes batches of messages; event times run from two hours ago, 1 s an event."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._clock = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
        self._made = 0
        self._sent: dict[str, Pairs] = {"orders": [], "clicks": []}

    def batch(self, n: int) -> dict[str, Pairs]:
        """`n` messages by topic: 3 % copies, 2 % garbage, 2 % late, the others up to 30 s out of order."""
        r, out = self._random, {"orders": [], "clicks": []}
        for _ in range(n):
            topic = "orders" if r.random() < 0.4 else "clicks"
            what = r.random()
            if what < 0.03 and self._sent[topic]:
                pair = r.choice(self._sent[topic][-200:])
            elif what < 0.05:
                pair = (b"u1", r.choice(GARBAGE))
            else:
                pair = self._event(topic, 3000 if what < 0.07 else r.randrange(30))
                self._sent[topic].append(pair)
            out[topic].append(pair)
        return out

    def back(self, seconds: int) -> None:
        """The clock of the events goes back."""
        self._clock -= timedelta(seconds=seconds)

    def _event(self, topic: str, back: int) -> tuple[bytes, bytes]:
        r = self._random
        self._made += 1
        self._clock += timedelta(seconds=1)
        event: dict[str, Any] = {"event_id": f"e{self._made}", "event_time": self._clock - timedelta(seconds=back)}
        if topic == "orders":
            event |= {"event_type": r.choice(KINDS), "order_id": f"o{r.randrange(60)}"}
            event |= {"customer_id": f"u{r.randrange(20)}", "items": []}
            event |= {"total_cents": r.randrange(10_000), "currency": r.choice(["EUR", "USD"])}
        else:
            event |= {"event_type": r.choice(["view", "cart"]), "user_id": f"u{r.randrange(20)}", "session_id": None}
            event |= {"product_id": f"p{r.randrange(9)}", "category": r.choice(["shoes", None]), "brand": None}
            event |= {"url": f"/{r.randrange(5)}", "price_cents": r.choice([None, 100])}
        return event["order_id" if topic == "orders" else "user_id"].encode(), encode(topic, event)


class Publishing:
    """Publishes a batch every `pause` seconds beside the test, until it is left; `shop` goes on after."""

    def __init__(self, settings: Settings, shop: Shop, n: int = 40, pause: float = 0.15):
        self._settings, self._shop, self._n, self._pause = settings, shop, n, pause
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Publishing:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends after the batch under way."""
        self._done.set()
        self._thread.join()

    def _publish(self) -> None:
        while not self._done.is_set():
            publish(self._settings, self._shop, self._n)
            self._done.wait(self._pause)


def publish(settings: Settings, shop: Shop, n: int) -> int:
    """Sends one batch; how many were delivered."""
    return sum(send_all(settings, topic, pairs) for topic, pairs in shop.batch(n).items() if pairs)
