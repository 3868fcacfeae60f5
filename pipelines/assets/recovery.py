"""Snapshots, and the drill that proves them."""

import time
from datetime import timedelta

import dagster as dg
from pydantic import Field

from pipelines.catalog import catalog, view_key
from pipelines.tally import SNAPSHOT, Tally, at_least, now, seconds, told
from tallystream.store.seal import key_from_environment
from tallystream.warehouse.drill import drill
from tallystream.warehouse.manifest import catalog as stored
from tallystream.warehouse.manifest import expire
from tallystream.warehouse.operate import take_snapshot

OWNER = "team:streaming"


class SnapshotConfig(dg.Config):  # type: ignore[misc]
    """What stays in the store after a snapshot."""

    keep_last: int = Field(96, description="Snapshots kept in any case: the newest whole ones. 96 are a day.")
    keep_days: float = Field(7.0, description="Days for which the others are kept too.")


@dg.asset(
    key=["recovery", "snapshot"],
    deps=[view_key(name) for name in catalog().views],
    group_name="recovery",
    kinds={"parquet"},
    owners=[OWNER],
    pool=SNAPSHOT,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=2), warn_window=timedelta(minutes=45)),
    check_specs=[
        dg.AssetCheckSpec(
            "is_whole", asset=["recovery", "snapshot"], description="It lies in the store as its manifest says."
        )
    ],
)
def snapshot(config: SnapshotConfig, tally: Tally) -> dg.MaterializeResult:
    """One committed state of the warehouse: rows, offsets and view definitions, manifest last; the stream goes on meanwhile."""
    began = time.monotonic()
    with told():
        at_least(1, keep_last=config.keep_last)
        at_least(0, keep_days=config.keep_days)
        settings, store = tally.settings(), tally.store()
        name = take_snapshot(settings, store)
        took = time.monotonic() - began
        key = key_from_environment()
        gone = expire(store, config.keep_last, config.keep_days, now(), key)
        found = next(f for f in stored(store, key) if f.name == name)
    m = found.manifest
    metadata = {
        "name": name,
        "seconds": seconds(took),
        "bytes": sum(found.sizes.values()),
        "dagster/row_count": 0 if m is None else m.rows,
        "last_commit": 0 if m is None or m.last_commit is None else m.last_commit["id"],
        "sealed": m is not None and m.key_id is not None,
        "expired": len(gone),
        "store": store.url,
    }
    problem = {} if found.problem is None else {"problem": str(found.problem)}
    whole = dg.AssetCheckResult(passed=found.good, check_name="is_whole", metadata=problem)
    return dg.MaterializeResult(metadata=metadata, check_results=[whole])


@dg.asset(
    key=["recovery", "restore_drill"],
    deps=[["recovery", "snapshot"]],
    group_name="recovery",
    kinds={"duckdb"},
    owners=[OWNER],
    pool=SNAPSHOT,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=50), warn_window=timedelta(hours=26)),
    check_specs=[
        dg.AssetCheckSpec(
            "newest_is_whole",
            asset=["recovery", "restore_drill"],
            description="No newer snapshot had to be passed over.",
        ),
        dg.AssetCheckSpec(
            "views_equal_the_live_ones",
            asset=["recovery", "restore_drill"],
            description="Restored, and read on from the snapshot's offsets, every view has the live one's rows.",
        ),
    ],
)
def restore_drill(context: dg.AssetExecutionContext, tally: Tally) -> dg.MaterializeResult:
    """Restores the newest good snapshot beside the warehouse, proves it, reads the tail of the log and compares.

    `rpo_seconds` is what would be lost with the log gone too, `rto_seconds` the time from nothing to now.
    """
    with told():
        done = drill(tally.settings(), tally.store(), catalog().views, now())
    for problem in done.passed_over:
        context.log.warning(f"passed over: {problem}")
    whole = dg.AssetCheckResult(
        passed=not done.passed_over,
        check_name="newest_is_whole",
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"passed_over": dg.MetadataValue.json(done.passed_over)},
    )
    equal = dg.AssetCheckResult(
        passed=bool(done.compared) and not done.differing,
        check_name="views_equal_the_live_ones",
        # Nothing to compare is no proof, and no damage either.
        severity=dg.AssetCheckSeverity.ERROR if done.differing else dg.AssetCheckSeverity.WARN,
        metadata={
            "compared": dg.MetadataValue.json(done.compared),
            "differing": dg.MetadataValue.json(done.differing),
            "not_compared": dg.MetadataValue.json(done.not_compared),
        },
    )
    return dg.MaterializeResult(
        metadata={
            "snapshot": done.snapshot,
            "rpo_seconds": seconds(done.rpo_seconds),
            "rto_seconds": seconds(done.rto_seconds),
            "restore_seconds": seconds(done.restore_seconds),
            "tail_seconds": seconds(done.tail_seconds),
            "tail_messages": done.tail_messages,
            "dagster/row_count": done.rows,
            "bytes": done.bytes,
        },
        check_results=[whole, equal],
    )
