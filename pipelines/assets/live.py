"""Topics and live views: made by producers and by the stream, not by Dagster, which only looks at them.

Nothing here starts a run: a stream commits twice a second, and a run for each would bury the run list.
"""

from datetime import timedelta

import dagster as dg

from pipelines.catalog import catalog, topic_key, topic_schema, view_column_lineage, view_key, view_schema
from tallystream.settings import TOPICS

OWNER = "team:streaming"
# The sensor looks every other minute: two missed looks warn, seven fail.
LIVE = dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=15), warn_window=timedelta(minutes=5))


def topic_specs() -> list[dg.AssetSpec]:
    """One for each topic."""
    return [
        dg.AssetSpec(
            topic_key(topic),
            description=f"The topic {topic}: events of the shop, Avro, as they happen.",
            group_name="topics",
            kinds={"kafka", "avro"},
            owners=[OWNER],
            metadata={"dagster/column_schema": topic_schema(topic)},
        )
        for topic in TOPICS
    ]


def view_specs() -> list[dg.AssetSpec]:
    """One for each live view."""
    return [
        dg.AssetSpec(
            view_key(plan.name),
            deps=[topic_key(t) for t in plan.topics],
            description=f"{plan.description}\n\n```sql\n{plan.sql.strip()}\n```",
            group_name="views",
            kinds={"bytewax", "duckdb"},
            owners=[OWNER],
            code_version=plan.version,
            freshness_policy=LIVE,
            metadata={
                "dagster/column_schema": view_schema(plan),
                "dagster/column_lineage": view_column_lineage(plan),
            },
        )
        for plan in catalog().views.values()
    ]
