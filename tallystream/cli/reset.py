"""`tally reset`: a log went back, or retention overtook the stream; somebody must say what now."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from tallystream import settings as environment
from tallystream.errors import UsageError
from tallystream.settings import TOPICS


def reset(
    topic: Annotated[str, typer.Option(help="orders or clicks.")],
    to: Annotated[str, typer.Option("--to", help="earliest, latest, or an offset.")],
    partition: Annotated[int | None, typer.Option(help="One partition; all of the topic when left out.")] = None,
) -> None:
    """Move the stored position of a topic, and accept it as the topic that is tallied from now on.

    Nothing else changes: views, accounts and the judge's memory stay, so events whose ids are
    still remembered are duplicates when they come again. Partitions that the topic no longer has are
    retired: their accounts stay in the books. The move is kept in ledger.resets.
    """
    from tallystream.cli.supervise import open_prepared, run_lock
    from tallystream.topics.client import topic_logs
    from tallystream.topics.records import read_records
    from tallystream.warehouse.reset import move
    from tallystream.warehouse.same_log import TopicLog

    if topic not in TOPICS:
        raise UsageError(f"no topic {topic}; the topics are {', '.join(TOPICS)}")
    if to not in ("earliest", "latest") and not to.isdecimal():
        raise UsageError(f"--to {to}: say earliest, latest, or an offset")
    s = environment.load()
    log = TopicLog(*topic_logs(s, (topic,))[topic])
    with run_lock(s), open_prepared(s) as con:
        moved = move(con, topic, log, partition, to, datetime.now(UTC).replace(tzinfo=None), partial(read_records, s))
    for m in moved:
        where = "retired, for the topic has no such partition; its accounts stay" if m.after is None else m.after
        typer.echo(f"{topic}/{m.partition}: {m.before} -> {where}")
