"""Aggregates as columns of state: how each is made of a batch, combined, upserted and shown.

`Part.combine` works over the rows of several partials or states; `Part.update` over `stored` and
`excluded`, as in any upsert.
"""

from __future__ import annotations

from dataclasses import dataclass

from tallystream.views import sketches

# These keep a list that grows with the group: the members, or a sketch of them.
SETS = ("distinct", "approx_count_distinct", "approx_quantile")
SKETCHES = SETS[1:]


@dataclass(frozen=True)
class Aggregate:
    """One aggregate call: its kind, argument SQL and FILTER condition (SQL, or None)."""

    kind: str
    args: tuple[str, ...]
    condition: str | None = None

    def where(self, condition: str | None) -> Aggregate:
        """The same over fewer rows."""
        if condition is None:
            return self
        both = condition if self.condition is None else f"({condition}) AND ({self.condition})"
        return Aggregate(self.kind, self.args, both)


@dataclass(frozen=True)
class Part:
    """One column of the partial and of the state.

    `settle`: over the combined column, where an aggregate alone cannot say it. `shown`: of a column that holds a
    set, the value that people see; it alone stays, in column `<name>c`, when the row is final. `zero`: over no
    events it is 0, not NULL.
    """

    name: str
    partial: str
    combine: str
    update: str = ""
    settle: str = ""
    shown: str = ""
    zero: bool = False

    @property
    def settled(self) -> str:
        """The combined column as it is stored."""
        return self.settle or self.name


def _filter(*conditions: str | None) -> str:
    told = [f"({c})" for c in conditions if c]
    return f" FILTER (WHERE {' AND '.join(told)})" if told else ""


def _add(name: str, partial: str, zero: bool) -> Part:
    old, new = f"stored.{name}", f"excluded.{name}"
    if zero:
        return Part(name, partial, f"CAST(sum({name}) AS BIGINT)", f"{old} + {new}", zero=True)
    plus = f"CASE WHEN {old} IS NULL THEN {new} WHEN {new} IS NULL THEN {old} ELSE {old} + {new} END"
    return Part(name, partial, f"sum({name})", plus)


def _best(name: str, partial: str, how: str) -> Part:
    old, new = f"stored.{name}", f"excluded.{name}"
    better = f"CASE WHEN {old} IS NULL OR {new} {'>' if how == 'max' else '<'} {old} THEN {new} ELSE {old} END"
    return Part(name, partial, f"{how}({name})", better)


def parts_of(i: int, a: Aggregate) -> list[Part]:
    """The mergeable columns of aggregate number `i`; none for the kinds that keep a set."""
    keep = _filter(a.condition)
    if a.kind == "count":
        return [_add(f"a{i}", f"count({a.args[0]}){keep}", True)]
    if a.kind == "sum":
        return [_add(f"a{i}", f"sum({a.args[0]}){keep}", False)]
    if a.kind == "avg":
        return [
            _add(f"a{i}s", f"sum({a.args[0]}){keep}", False),
            _add(f"a{i}n", f"count({a.args[0]}){keep}", True),
        ]
    if a.kind in ("min", "max"):
        return [_best(f"a{i}", f"{a.kind}({a.args[0]}){keep}", a.kind)]
    if a.kind in ("bool_or", "bool_and"):
        return [_best(f"a{i}", f"{a.kind}({a.args[0]}){keep}", "max" if a.kind == "bool_or" else "min")]
    if a.kind in ("arg_min", "arg_max"):
        return [_best(f"a{i}", _arg_best(a), a.kind.removeprefix("arg_"))]
    return [_set(f"a{i}", a, keep)]


def _set(name: str, a: Aggregate, keep: str) -> Part:
    together = f"flatten(list({name}) FILTER (WHERE {name} IS NOT NULL))"
    given = _filter(f"{a.args[0]} IS NOT NULL", a.condition)
    if a.kind == "distinct":
        shown = f"coalesce(len({name}), 0)"
        return Part(name, f"list(DISTINCT {a.args[0]}){given}", together, "", f"list_distinct({name})", shown)
    if a.kind == "approx_count_distinct":
        least = sketches.smallest(f"list(DISTINCT {sketches.hashed(a.args[0])}){given}")
        return Part(name, least, together, "", sketches.smallest(name), sketches.distinct_of(name))
    made = sketches.buckets_of(a.args[0], given)
    return Part(name, made, together, "", sketches.merged_buckets(name), sketches.quantile_of(name, a.args[1]))


def _arg_best(a: Aggregate) -> str:
    """Ties go by (the given key, event_id), then by the value: the same on every path."""
    value, by = a.args
    how = a.kind.removeprefix("arg_")
    keep = _filter(f"{value} IS NOT NULL", f"{by} IS NOT NULL", a.condition)
    return f"{how}(struct_pack(k := {by}, id := event_id, v := {value})){keep}"


def final_of(i: int, a: Aggregate, in_row: bool) -> str:
    """What people see of aggregate `i`, over its stored columns; `in_row`: its set is a column of the row."""
    if a.kind == "avg":
        return f"(a{i}s::DOUBLE / nullif(a{i}n, 0))"
    if a.kind in ("arg_min", "arg_max"):
        return f"a{i}.v"
    if a.kind in SETS and in_row:
        return f"coalesce(a{i}c, {parts_of(i, a)[0].shown})"
    return f"a{i}"


def batch_of(i: int, a: Aggregate) -> tuple[str, str]:
    """The aggregate over all events at once, as column `b{i}` of the groups, and what people see of that column."""
    keep = _filter(a.condition)
    if a.kind in ("arg_min", "arg_max"):
        return _arg_best(a), f"b{i}.v"
    if a.kind == "avg":
        return f"(sum({a.args[0]}){keep})::DOUBLE / nullif(count({a.args[0]}){keep}, 0)", f"b{i}"
    if a.kind == "distinct":
        return f"count(DISTINCT {a.args[0]}){keep}", f"b{i}"
    if a.kind in SKETCHES:
        part = _set(f"b{i}", a, keep)
        return part.partial, part.shown
    return f"{a.kind}({a.args[0]}){keep}", f"b{i}"
