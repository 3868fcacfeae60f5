"""`tally archive`: the log up to the committed offsets, as Parquet in the object store."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tallystream import settings as environment


def archive(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False) -> None:
    """Copy what was tallied since the last time into the archive, then merge its small files.

    Each message is in it once, whatever kills this command: run it again. Replays and redrives read it where
    Kafka's retention has removed the log.
    """
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.store.objects import open_store
    from tallystream.warehouse.archive_merge import merge_archive
    from tallystream.warehouse.operate import archive_committed

    s = environment.load()
    store = open_store(s)
    done = archive_committed(s, store)
    merged = merge_archive(s, store)
    for topic, partition, first, after in done.lost:
        typer.echo(
            f"{topic}/{partition}: retention had removed offsets [{first}, {after}) before they were archived", err=True
        )
    if as_json:
        typer.echo(json.dumps({**asdict(done), "merged": asdict(merged), "store": store.url}, indent=2))
    else:
        typer.echo(
            f"{done.messages:,} messages in {done.files} new files; the archive has {merged.files_after} files, {merged.bytes_after:,} bytes"
        )
