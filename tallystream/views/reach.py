"""Which events can have made a row of a view, told by its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tallystream.views.plan import ViewPlan, quote
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan


def reach(plan: ViewPlan) -> tuple[str, str] | None:
    """SQL over a view's row: the times [from, to) of the events that can have made it; None when its columns do not tell."""
    if isinstance(plan, AttributionPlan):
        shape = plan.shape
        times = [f"rows.l{i}" for i, c in enumerate(shape.left.columns) if c == "event_time"]
        named = [quote(o.name) for o in shape.outputs if o.sql in times]
        # Without a guard, or where it drops no row, the match of a row can be however long ago.
        if not named or shape.guard is None or not shape.outer:
            return None
        ends = (0, shape.bound, shape.guard)
        return f"{named[0]} + to_microseconds({min(ends)})", f"{named[0]} + to_microseconds({max(ends) + 1})"
    if not isinstance(plan, GroupedPlan) or plan.window is None:
        return None
    named_by = {o.sql: quote(o.name) for o in plan.shape.outputs}
    start, end = named_by.get("window_start"), named_by.get("window_end")
    if plan.window.kind == "session":
        return (start, end) if start and end else None
    size = f"to_microseconds({plan.window.size})"
    if start:
        return start, f"{start} + {size}"
    return (f"{end} - {size}", end) if end else None


# Strictly between which event times, microseconds; None: unbounded.
Bounds = tuple[int | None, int | None]


def made_between(plan: ViewPlan, after: int | None, before: int | None, spared: Iterable[Bounds] = ()) -> str | None:
    """SQL over a view's row: all events that can have made it are strictly between, microseconds; None: unbounded.

    Rows that are within one of `spared` are not meant. None when the view's columns cannot tell that of any row.
    """
    others = [made_between(plan, *bounds) for bounds in spared]
    if others:
        told = [t for t in (made_between(plan, after, before), *others) if t is not None]
        whole = len(told) > len(others)
        return " AND ".join([f"({told[0]})", *(f"NOT ({t})" for t in told[1:])]) if whole else None
    if after is None and before is None:
        return "true"
    ends = reach(plan)
    if ends is None:
        return None
    told = []
    if after is not None:
        told.append(f"epoch_us({ends[0]}) > {int(after)}")
    if before is not None:
        told.append(f"epoch_us({ends[1]}) <= {int(before)}")
    return " AND ".join(told)


def keys_of(plan: ViewPlan) -> list[str]:
    """The columns of a view that tell one row from another."""
    if isinstance(plan, AttributionPlan):
        return [o.name for o in plan.shape.outputs if not re.search(r"\br\b", o.sql)]
    assert isinstance(plan, GroupedPlan)
    return [o.name for o in plan.shape.outputs if not re.search(r"__a\d+__", o.sql)]
