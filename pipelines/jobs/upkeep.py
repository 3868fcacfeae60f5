"""The jobs that the clock runs: archive, snapshot, restore drill, quality; and compaction."""

from datetime import datetime, timedelta

import dagster as dg
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from pydantic import Field

from pipelines.assets.archive import archived
from pipelines.tally import ARCHIVE, REWRITE, Tally, at_least, now, seconds, told
from tallystream.warehouse.archive_merge import merge_archive
from tallystream.warehouse.operate import compact_now

RUN_DAYS, EVENT_DAYS = 14.0, 3.0
BATCH = 500  # runs removed by one compaction at most: each is a file and some rows

archive = dg.define_asset_job(
    "archive",
    selection=dg.AssetSelection.assets(archived),
    description="Copies the log up to the committed offsets into the object store, once each message.",
)
snapshot = dg.define_asset_job(
    "snapshot",
    selection=dg.AssetSelection.assets(["recovery", "snapshot"]),
    description="Takes a snapshot of rows, offsets and views while the stream goes on, and expires old ones.",
)
restore_drill = dg.define_asset_job(
    "restore_drill",
    selection=dg.AssetSelection.assets(["recovery", "restore_drill"]),
    description="Restores the newest snapshot beside the warehouse, proves it and compares it with the live views.",
)
quality = dg.define_asset_job(
    "quality",
    selection=dg.AssetSelection.all_asset_checks()
    - dg.AssetSelection.checks_for_assets(
        ["recovery", "snapshot"], ["recovery", "restore_drill"], ["recovery", "backfill"]
    ),
    description="All checks of topics, views and models: accounts, parity, freshness and the suites of Great Expectations.",
)


class ForgetConfig(dg.Config):  # type: ignore[misc]
    """What the control plane forgets of itself."""

    run_days: float = Field(RUN_DAYS, description="Days for which finished runs of Dagster are kept.")
    event_days: float = Field(EVENT_DAYS, description="Days for which reports of sensors are kept: the plots' length.")


@dg.op(pool=REWRITE, description="Moves final rows from hot to cold tables, shortens old books, checkpoints the file.")
def compact_warehouse(context: dg.OpExecutionContext, tally: Tally) -> None:
    """By the writer of the running stream, in small transactions between its commits; at rest here."""
    with told():
        done = compact_now(tally.settings())
    before, after = done["before"], done["after"]
    context.add_output_metadata(
        {
            "rows_moved": sum(done["moved"].values()),
            "commit_rows_joined": done["commit_rows_joined"],
            "checkpointed": done["checkpointed"],
            "bytes_before": before["warehouse_bytes"] + before["log_bytes"],
            "bytes_after": after["warehouse_bytes"] + after["log_bytes"],
            "seconds": seconds(done["seconds"]),
            "views": dg.MetadataValue.json({name: after["views"][name] for name in sorted(done["moved"])}),
        }
    )


@dg.op(pool=ARCHIVE, description="Merges the archive's small files of one hour into large ones.")
def merge_archive_files(context: dg.OpExecutionContext, tally: Tally) -> None:
    """Sizes before and after go into the op's metadata."""
    with told():
        done = merge_archive(tally.settings(), tally.store())
    context.add_output_metadata(vars(done))


@dg.op(description="Removes old finished runs; Dagster itself keeps them for ever.")
def forget_old_runs(context: dg.OpExecutionContext, config: ForgetConfig) -> None:
    """Ticks have their retention in dagster.yaml; runs have none there."""
    with told():
        at_least(0, run_days=config.run_days, event_days=config.event_days)
    before = now() - timedelta(days=config.run_days)
    finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    wanted = dg.RunsFilter(statuses=finished, created_before=before)
    gone = [r.run_id for r in context.instance.get_runs(wanted, limit=BATCH)]
    for run_id in gone:
        context.instance.delete_run(run_id)
    events = forget_reports(context.instance, now() - timedelta(days=config.event_days))
    context.add_output_metadata({"runs_removed": len(gone), "reports_removed": events})


def forget_reports(instance: dg.DagsterInstance, before: datetime) -> int:
    """Removes what sensors reported before a time (UTC, naive); returns how many reports there were.

    Dagster keeps events without a run for ever: with seven views some fifty megabytes a day. It has no way of its own to
    remove some of an asset's, so this goes to its SQL storage; one of another kind is left alone.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    table, no_run = SqlEventLogStorageTable, RUNLESS_RUN_ID
    old = table.delete().where(table.c.run_id == no_run).where(table.c.timestamp < before)
    removed = 0
    # SQLite has an index over all runs and a file for each; elsewhere both are the same table.
    for connection in (storage.index_connection, lambda: storage.run_connection(no_run)):
        with connection() as con:
            removed = max(removed, con.execute(old).rowcount)
    return removed


@dg.job(
    description="Hot rows to cold tables, a checkpoint, small archive files merged, what is old removed; the stream goes on."
)
def compact() -> None:
    """Each step is safe to repeat, and to be killed in."""
    compact_warehouse()
    merge_archive_files()
    forget_old_runs()
