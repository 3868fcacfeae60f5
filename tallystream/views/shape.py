"""What a view file says, read but not yet planned."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from tallystream.views.aggregates import Aggregate
from tallystream.views.relation import Relation

WINDOW_COLUMNS = ("window_start", "window_end")


@dataclass(frozen=True)
class Window:
    """kind: tumble, hop, session or asof; all spans in microseconds.

    size: its length, of a session the gap, of an attribution how far beyond a row's time an event can matter.
    shift: where the windows begin, counted from the Unix epoch.
    """

    kind: str
    size: int
    slide: int
    shift: int = 0

    @property
    def pane(self) -> int:
        """The longest stretch that no window of this kind divides, microseconds."""
        return gcd(self.size, self.slide)


@dataclass(frozen=True)
class Output:
    """A column people see. `sql`: over __a0__ (aggregate), __k0__ (key), window_start and window_end."""

    name: str
    sql: str


@dataclass(frozen=True)
class Grouped:
    """Groups of events, with or without windows. `session_key`: SQL, for sessions."""

    relation: Relation
    window: Window | None
    outputs: tuple[Output, ...]
    keys: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    where: str | None
    having: str | None
    session_key: str | None
    description: str
    canonical: str


@dataclass(frozen=True)
class Side:
    """One side of an attribution: its relation, and the SQL of what is kept of it.

    `keys` are compared for equality with those of the other side. `columns`: the columns that outputs use.
    """

    relation: Relation
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    where: str | None


@dataclass(frozen=True)
class Attribution:
    """`left ASOF LEFT JOIN right`: each left row with one right row, the nearest in time.

    Backward: the last with `right time <= left time + bound`; else the first with `>=`. `strict`: `<`, `>`.
    `guard`: beyond `left time + guard` a right row is as good as none; None when the file does not say so.
    Times in microseconds. `outputs`: over l0… (left columns), r.t, r.id and r.c0… (right columns).
    """

    left: Side
    right: Side
    backward: bool
    strict: bool
    bound: int
    guard: int | None
    outer: bool
    outputs: tuple[Output, ...]
    batch_sql: str
    description: str
    canonical: str


Shape = Grouped | Attribution
