"""Rows of a query as a table for people, as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from math import isfinite
from typing import Any, TextIO

from rich.table import Table
from rich.text import Text

Row = tuple[Any, ...]
NUMBERS = ("INT", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT")
CELL = 200  # characters of a cell for people


def plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601 UTC, bytes in hex, no NaN."""
    if isinstance(value, datetime):
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return utc.isoformat() + "Z"
    if isinstance(value, date | time_of_day):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, Decimal):
        if value == value.to_integral_value():
            return int(value)
        # A number of JSON is read as a double: digits that it would lose are kept as text.
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, dict):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_json(names: Sequence[str], rows: Sequence[Row], out: TextIO) -> None:
    """A list of objects, one a line."""
    out.write("[")
    for i, row in enumerate(rows):
        out.write(",\n " if i else "\n ")
        json.dump({name: plain(v) for name, v in zip(names, row, strict=True)}, out, ensure_ascii=False)
    out.write("\n]\n" if rows else "]\n")


def as_csv(names: Sequence[str], rows: Sequence[Row], out: TextIO) -> None:
    """RFC 4180 with a header; NULL is an empty cell, nested values are JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = [plain(v) for v in row]
        writer.writerow([json.dumps(c, ensure_ascii=False) if isinstance(c, dict | list) else c for c in cells])


def as_table(names: Sequence[str], types: Sequence[Any], rows: Sequence[Row]) -> Table:
    """For people: numbers to the right, long cells cut."""
    table = Table()
    for name, kind in zip(names, types, strict=True):
        right = str(kind).startswith(NUMBERS) or "INT" in str(kind).split("(")[0]
        table.add_column(Text(name), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(v) for v in row))
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    shown = plain(value)
    text = json.dumps(shown, ensure_ascii=False) if isinstance(shown, dict | list) else str(shown)
    # Text of events can hold escape sequences; a terminal must not obey them.
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return Text(text if len(text) <= CELL else text[: CELL - 1] + "…")
