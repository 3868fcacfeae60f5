"""Events as JSON: one object, the contract's fields, times as ISO 8601 UTC. For files and for JSON on the wire."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from tallystream.topics.contracts import Contract

TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z")
EPOCH = datetime(1970, 1, 1)
INT64 = range(-(2**63), 2**63)


def parse_time(text: Any) -> int:
    """`2019-10-01T00:00:00.5Z` as microseconds since the epoch.

    Raises:
        ValueError: it is no UTC time with Z, or more precise than a microsecond.
    """
    found = TIME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"event_time {text!r} is no UTC time like 2019-10-01T00:00:00.5Z")
    whole = datetime.fromisoformat(found[1]) - EPOCH
    return whole // timedelta(microseconds=1) + int((found[2] or "0").ljust(6, "0"))


def parse_event(contract: Contract, text: str | bytes, unknown: bool = False) -> dict[str, Any]:
    """One event with the contract's fields in order; event_time as microseconds.

    `unknown`: fields that the contract does not name are passed over instead of refused.

    Raises:
        ValueError: what is wrong, in words.
    """
    raw = json.loads(text, parse_constant=_no_constant)
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    strangers = [name for name in raw if name not in contract.arrow.names]
    if strangers and not unknown:
        raise ValueError(f"unknown field {strangers[0]}")
    return {field.name: _value(field, raw.get(field.name)) for field in contract.arrow}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _value(field: pa.Field, value: Any) -> Any:
    if value is None:
        if not field.nullable:
            raise ValueError(f"field {field.name} is missing or null")
        return None
    return _typed(field.name, field.type, value)


def _typed(name: str, kind: pa.DataType, value: Any) -> Any:
    if pa.types.is_timestamp(kind):
        return parse_time(value)
    if pa.types.is_string(kind):
        if not isinstance(value, str):
            raise ValueError(f"{name} is no text")
        value.encode()  # lone surrogates are no text either
        return value
    if pa.types.is_integer(kind):
        if type(value) is not int or value not in INT64:
            raise ValueError(f"{name} is no integer of 64 bits")
        return value
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        return [_typed(f"{name}[{i}]", kind.value_type, item) for i, item in enumerate(value)]
    if pa.types.is_struct(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no object")
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if set(value) != set(names):
            raise ValueError(f"{name} must have the fields {', '.join(names)}")
        return {n: _typed(f"{name}.{n}", kind.field(n).type, value[n]) for n in names}
    raise ValueError(f"{name} has a type that JSON events do not carry")
