"""The few texts that all generated SQL is made with; without a parser, for processes that only run plans."""

from __future__ import annotations

ORIGIN = "TIMESTAMP '1970-01-01'"


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def micros(n: int) -> str:
    """An interval of `n` microseconds."""
    return f"to_microseconds({n})"
