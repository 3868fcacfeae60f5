"""Replays from a form: a range of the log once more, beside what the stream made of it."""

from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from pipelines.tally import REWRITE, Tally, still_wanted, told
from tallystream.errors import UsageError
from tallystream.replay import api
from tallystream.replay.request import ReplayRequest, time_of
from tallystream.settings import TOPICS

ROWS = 50  # of a difference, shown in the run; all of them are in its file


class Mode(Enum):
    """What becomes of a replay."""

    sandbox = "sandbox"
    diff = "diff"
    promote = "promote"


class Time(Enum):
    """Whose time a range is of."""

    event = "event"
    log = "log"


class Source(Enum):
    """Where a replay reads."""

    kafka = "kafka"
    archive = "archive"


class ReplayConfig(dg.Config):  # type: ignore[misc]
    """The form of the launchpad; an impossible value or range is refused in the first step, with what is available.

    Without pydantic's own bounds: what breaks one is thirty lines about models, before the step that could say a sentence.
    """

    mode: Mode = Field(
        Mode.diff,
        description="sandbox: into a file of its own. diff: and compared with the live views. promote: and swapped in, with an undo.",
    )
    topics: list[str] = Field(list(TOPICS), description="Topics to read again: one or both.")
    partitions: list[int] = Field([], description="Partitions of them; all when empty.")
    from_offset: int | None = Field(None, description="First offset, 0 or more; from the start when left out.")
    to_offset: int | None = Field(None, description="Offset to stop before; up to the last commit when left out.")
    from_time: str | None = Field(None, description="First time, UTC, such as 2026-03-01T12:00:00Z.")
    to_time: str | None = Field(None, description="Time to stop before, UTC.")
    time_kind: Time = Field(Time.event, description="Whose time: of the events, or of the log.")
    source: Source = Field(Source.kafka, description="Where from: archive reaches past Kafka's retention.")
    views_dir: str | None = Field(
        None, description="Folder of other view files; those that the warehouse has when left out."
    )
    rate: int | None = Field(None, description="Messages a second at most, 1 or more; no limit when left out.")

    def request(self) -> ReplayRequest:
        """As the engine takes it.

        Raises:
            UsageError: a time is none, or the folder does not exist.
        """
        folder = None if self.views_dir is None else Path(self.views_dir)
        if folder is not None and not folder.is_dir():
            raise UsageError(f"views_dir {folder} is no folder")
        return ReplayRequest(
            mode=self.mode.value,
            topics=tuple(self.topics),
            partitions=tuple(self.partitions) or None,
            from_offset=self.from_offset,
            to_offset=self.to_offset,
            from_time=time_of("from_time", self.from_time),
            to_time=time_of("to_time", self.to_time),
            time_kind=self.time_kind.value,
            source=self.source.value,
            views_dir=folder,
            rate=self.rate,
        )


@dg.op(
    pool=REWRITE,
    description="Reads the range again; what it is compared with, and swapped into, is the live warehouse.",
)
def replay_range(context: dg.OpExecutionContext, config: ReplayConfig, tally: Tally) -> None:
    """Counts by view, the first changed cells, and where all of them lie, go into the op's metadata."""
    with told():
        done = api.replay(tally.settings(), config.request(), lambda *_: still_wanted(), still_wanted)
    metadata: dict[str, Any] = {
        "mode": done.mode,
        "messages": done.messages,
        "changed_cells": done.cells,
        "sandbox": dg.MetadataValue.path(done.sandbox),
        "ranges": table(done.ranges),
        "accounts": dg.MetadataValue.json(done.accounts),
    }
    if done.views:
        metadata["views"] = table(done.views)
    if done.diff:
        metadata["diff_file"] = dg.MetadataValue.path(done.diff)
        metadata["diff"] = table(api.cells_of(done).slice(0, ROWS).to_pylist())
    if done.promotion is not None:
        metadata["promotion"] = done.promotion
    if done.not_promoted:
        metadata["not_promoted"] = dg.MetadataValue.json(done.not_promoted)
    context.add_output_metadata(metadata)


@dg.job(
    description="A range of the log once more: into a sandbox, compared with the live views, or promoted into them."
)
def replay() -> None:
    """The form is `ReplayConfig`."""
    replay_range()


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """Rows as the UI shows them; an empty list says so."""
    if not rows:
        return dg.MetadataValue.text("none")
    columns = [dg.TableColumn(name, _type([r[name] for r in rows])) for name in rows[0]]
    records = [
        dg.TableRecord({k: v if isinstance(v, int | float | str | None) else str(v) for k, v in r.items()})
        for r in rows
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def _type(values: list[Any]) -> str:
    return "int" if all(isinstance(v, int) and not isinstance(v, bool) for v in values) else "string"
