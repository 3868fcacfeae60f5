"""The few texts that all generated SQL is made with; without a parser, for processes that only run plans."""

from __future__ import annotations

ORIGIN = "TIMESTAMP '1970-01-01'"


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def instant(n: int) -> str:
    """A time, `n` microseconds after 1970: windows of the year 1 begin before it, where Python has none."""
    return f"make_timestamp({n}::BIGINT)"


def micros(n: int) -> str:
    """An interval of `n` microseconds."""
    return f"to_microseconds({n})"
