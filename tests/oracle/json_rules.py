"""Events as JSON objects, read by the contract's types: what docs and DESIGN ask of a value, and nothing of the engine's."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?Z", re.ASCII)


def read(value: bytes, schema: Any) -> dict[str, Any] | None:
    """The event, its time without a zone; None when the bytes are none of this contract."""
    try:
        told = json.loads(value.decode(), parse_constant=_refuse)
        return _read(schema, told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _read(schema: Any, told: Any) -> Any:
    if isinstance(schema, list):
        return None if told is None else _read(next(kind for kind in schema if kind != "null"), told)
    if isinstance(schema, dict) and schema["type"] == "record":
        if not isinstance(told, dict):
            raise TypeError
        return {f["name"]: _read(f["type"], told.get(f["name"])) for f in schema["fields"]}
    if isinstance(schema, dict) and schema["type"] == "array":
        if not isinstance(told, list):
            raise TypeError
        return [_read(schema["items"], item) for item in told]
    if isinstance(schema, dict) and schema.get("logicalType") == "timestamp-micros":
        return _time(told)
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind == "string":
        told.encode()  # half a surrogate pair is no text; what is no str has no such method
        return told
    # A bool is an int to Python, and 2**63 no long to anybody.
    if kind != "long" or type(told) is not int or not -(2**63) <= told < 2**63:
        raise TypeError
    return told


def _time(told: Any) -> datetime:
    found = TIME.fullmatch(told)
    if found is None:
        raise ValueError
    *parts, fraction = found.groups()
    return datetime(*map(int, parts)) + timedelta(microseconds=int((fraction or "0").ljust(6, "0")))
