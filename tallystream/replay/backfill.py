"""Backfills: the windows of a range of event time, made anew from the archive with the definitions that the warehouse has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from tallystream.replay.api import ReplayResult, replay
from tallystream.replay.engine import Progress
from tallystream.replay.request import ReplayRequest, Source
from tallystream.settings import Settings
from tallystream.warehouse.operate import redrive_now


def backfill(
    settings: Settings,
    from_time: datetime,
    to_time: datetime,
    source: Source = "archive",
    late: bool = True,
    progress: Progress | None = None,
    permit: Callable[[], None] = lambda: None,
) -> ReplayResult:
    """Brings the late events of [from_time, to_time) in, recomputes its windows, and promotes what differs.

    `late`: redrives the rows of late_events whose event_time is in the range, each once, before anything is compared;
    the recomputation has them too, so it takes none of them out again, and another backfill changes nothing. Windows
    that carry a promotion of another definition are left alone. `permit`: as of `replay`.

    Raises:
        UsageError: nothing that was tallied is in the range.
        TallyError: as `replay`.
    """
    request = ReplayRequest("promote", from_time=from_time, to_time=to_time, source=source, mends=True)
    request.check()
    permit()
    brought = None
    if late:
        within = f"event_time >= TIMESTAMP '{from_time}' AND event_time < TIMESTAMP '{to_time}'"
        brought = redrive_now(settings, "late", within)
    result = replay(settings, request, progress, permit)
    result.late = brought
    return result
