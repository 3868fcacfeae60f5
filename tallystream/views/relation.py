"""What a view reads, as a plan knows it."""

from __future__ import annotations

from dataclasses import dataclass

# The topics as tables of SQL; the types are those of the contracts.
TOPIC_COLUMNS = {
    "orders": "event_id VARCHAR, event_type VARCHAR, event_time TIMESTAMP, order_id VARCHAR, customer_id VARCHAR, "
    "items STRUCT(product_id VARCHAR, quantity BIGINT, unit_price_cents BIGINT)[], total_cents BIGINT, currency VARCHAR",
    "clicks": "event_id VARCHAR, event_type VARCHAR, event_time TIMESTAMP, user_id VARCHAR, session_id VARCHAR, "
    "product_id VARCHAR, category VARCHAR, brand VARCHAR, url VARCHAR, price_cents BIGINT",
}


@dataclass(frozen=True)
class Relation:
    """Rows made of single events. `columns`: name -> type; `sources`: topic -> SELECT over the table `{topic}`."""

    name: str
    columns: dict[str, str]
    sources: dict[str, str]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics whose events it shows."""
        return tuple(self.sources)

    def over(self, topic: str, table: str) -> str:
        """A FROM item: the relation's rows of `topic`, whose events are in `table`."""
        return table if self.name == topic else f"({self.sources[topic].replace('{topic}', table)})"

    @property
    def cte(self) -> str:
        """`name AS (…)` over the topics themselves; empty for a topic."""
        if self.name in TOPIC_COLUMNS:
            return ""
        return f"{self.name} AS ({' UNION ALL '.join(s.replace('{topic}', t) for t, s in self.sources.items())})"
