"""`tally restore`: a snapshot becomes the warehouse of an empty TALLY_HOME."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from tallystream import settings as environment
from tallystream.errors import UsageError


def restore(
    name: Annotated[str | None, typer.Argument(help="A snapshot's name; the newest whole one when left out.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The newest taken at or before a time: 2026-03-01T12:00 (UTC).")
    ] = None,
) -> None:
    """Restore a snapshot; `tally run` then goes on from its offsets, exactly once.

    Every file is compared with the manifest before anything is built, every table after. A damaged
    snapshot is never restored: without a name, the one before it is, and this is said.
    """
    # Imported here: the help of the command needs neither DuckDB nor obstore.
    from tallystream.cli.supervise import run_lock
    from tallystream.store.objects import open_store
    from tallystream.warehouse import restore as engine

    if name is not None and at is not None:
        raise UsageError("say a name or --at, not both")
    s = environment.load()
    moment = None if at is None else moment_of(at)
    with run_lock(s):
        done = engine.restore(s, open_store(s), name, moment)
    for problem in done.passed_over:
        typer.echo(f"passed over: {problem}", err=True)
    for o in done.manifest.offsets:
        typer.echo(f"{o['topic']}/{o['partition']} goes on at offset {o['next_offset']}", err=True)
    typer.echo(done.manifest.name)


def moment_of(text: str) -> datetime:
    """A time as UTC, naive; without a zone it is taken as UTC.

    Raises:
        UsageError: it is no ISO 8601 time.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text}: say a time like 2026-03-01T12:00 or 2026-03-01T12:00:00+01:00") from None
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)
