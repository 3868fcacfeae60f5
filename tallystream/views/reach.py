"""Which events can have made a row of a view, told by its columns."""

from __future__ import annotations

import re

from tallystream.views.plan import ViewPlan, quote
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan


def reach(plan: ViewPlan) -> tuple[str, str] | None:
    """SQL over a view's row: the times [from, to) of the events that can have made it; None when its columns do not tell."""
    if isinstance(plan, AttributionPlan):
        times = [i for i, c in enumerate(plan.shape.left.columns) if c == "event_time"]
        named = [o.name for o in plan.shape.outputs for i in times if o.sql == f"l{i}"]
        if not named:
            return None
        span = f"to_microseconds({max(plan.window.size, 0)})"
        column = quote(named[0])
        return f"{column} - {span}", f"{column} + {span} + to_microseconds(1)"
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


def made_between(plan: ViewPlan, after: int | None, before: int | None) -> str | None:
    """SQL over a view's row: all events that can have made it are strictly between, microseconds; None: unbounded.

    None when the view's columns cannot tell that of any row.
    """
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
