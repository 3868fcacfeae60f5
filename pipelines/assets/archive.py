"""The archive: hourly partitions of log time; one run copies all that was committed, and tells of the hours asked for."""

from datetime import timedelta

import dagster as dg

from pipelines.catalog import archive_column_lineage, archive_key, archive_schema, topic_key
from pipelines.tally import ARCHIVE, HOURS, Tally, told
from tallystream.settings import TOPICS
from tallystream.store.objects import Store
from tallystream.warehouse.archive_index import load, partitions
from tallystream.warehouse.operate import archive_committed

HOUR = 3600


def _spec(topic: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        archive_key(topic),
        deps=[topic_key(topic)],
        description=f"Every message of {topic} up to the committed offsets, once, as Parquet in the object store.",
        group_name="archive",
        kinds={"parquet"},
        owners=["team:streaming"],
        partitions_def=HOURS,
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=3), warn_window=timedelta(minutes=90)
        ),
        metadata={
            "dagster/column_schema": archive_schema(topic),
            "dagster/column_lineage": archive_column_lineage(topic),
        },
    )


@dg.multi_asset(
    name="archive_topics",
    specs=[_spec(topic) for topic in TOPICS],
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool=ARCHIVE,
)
def archived(context: dg.AssetExecutionContext, tally: Tally):  # type: ignore[no-untyped-def]
    """Copies what was tallied since the last run; an hour is whole when the next one has begun in its partition."""
    with told():
        store = tally.store()
        done = archive_committed(tally.settings(), store)
    for topic, partition, first, after in done.lost:
        context.log.warning(
            f"{topic}/{partition}: retention had removed offsets [{first}, {after}) before they were archived"
        )
    window = context.partition_time_window if context.has_partition_key or context.has_partition_key_range else None
    hours = (
        None if window is None else range(int(window.start.timestamp()) // HOUR, int(window.end.timestamp()) // HOUR)
    )
    for topic in TOPICS:
        yield dg.MaterializeResult(asset_key=archive_key(topic), metadata=_facts(store, topic, hours))


def _facts(store: Store, topic: str, hours: range | None) -> dict[str, int | str]:
    spans = [s for p in partitions(store, topic) for s in load(store, topic, p).spans]
    chosen = [s for s in spans if not s.lost and (hours is None or s.hour in hours)]
    return {
        "dagster/partition_row_count" if hours is not None else "dagster/row_count": sum(s.rows for s in chosen),
        "dead_letters": sum(s.dead_rows for s in chosen),
        "files": sum(len(s.pieces) for s in chosen),
        "bytes": sum(p.size for s in chosen for p in s.pieces),
        "lost_offsets": sum(s.next - s.first for s in spans if s.lost),
        "files_in_all": sum(len(s.pieces) for s in spans),
        "bytes_in_all": sum(p.size for s in spans for p in s.pieces),
        "store": store.url,
    }
