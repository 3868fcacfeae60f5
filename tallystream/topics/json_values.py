"""Events as JSON: one object, the contract's fields, times as ISO 8601 UTC. For files and for JSON on the wire."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from tallystream.topics.contracts import Contract

TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,6}))?Z")
EPOCH = datetime(1970, 1, 1)
INT64 = range(-(2**63), 2**63)


class EventError(ValueError):
    """JSON that is no event of the contract: a short machine-readable `reason`, and the words."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def parse_time(text: Any) -> int:
    """`2019-10-01T00:00:00.5Z` as microseconds since the epoch.

    Raises:
        EventError: it is no UTC time with Z, or more precise than a microsecond.
    """
    found = TIME.fullmatch(text) if isinstance(text, str) else None
    try:
        if found is None:
            raise ValueError
        whole = datetime.fromisoformat(found[1]) - EPOCH
    except ValueError:
        raise EventError(
            "invalid_value", f"event_time {text!r:.60} is no UTC time like 2019-10-01T00:00:00.5Z"
        ) from None
    return whole // timedelta(microseconds=1) + int((found[2] or "0").ljust(6, "0"))


def parse_event(contract: Contract, text: str | bytes, unknown: bool = False) -> dict[str, Any]:
    """One event with the contract's fields in order; event_time as microseconds.

    `unknown`: fields that the contract does not name are passed over instead of refused.

    Raises:
        EventError: what is wrong, in words.
    """
    try:
        # Decoded here: json.loads would guess UTF-16 from zero bytes.
        raw = json.loads(text if isinstance(text, str) else text.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise EventError("invalid_utf8", str(error)) from None
    except RecursionError:
        raise EventError("bad_json", "nested too deeply") from None
    except ValueError as error:
        raise EventError("bad_json", str(error)) from None
    if not isinstance(raw, dict):
        raise EventError("bad_json", "not a JSON object")
    strangers = [name for name in raw if name not in contract.arrow.names]
    if strangers and not unknown:
        raise EventError("invalid_value", f"unknown field {strangers[0]}")
    return {field.name: _value(field, raw.get(field.name), unknown) for field in contract.arrow}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _value(field: pa.Field, value: Any, unknown: bool) -> Any:
    if value is None:
        if not field.nullable:
            raise EventError("missing_field", f"field {field.name} is missing or null")
        return None
    return _typed(field.name, field.type, value, unknown)


def _typed(name: str, kind: pa.DataType, value: Any, unknown: bool) -> Any:
    if pa.types.is_timestamp(kind):
        return parse_time(value)
    if pa.types.is_string(kind):
        return _text(name, value)
    if pa.types.is_integer(kind):
        if type(value) is not int or value not in INT64:
            raise EventError("invalid_value", f"{name} is no integer of 64 bits")
        return value
    if pa.types.is_list(kind):
        if not isinstance(value, list):
            raise EventError("invalid_value", f"{name} is no list")
        return [_typed(f"{name}[{i}]", kind.value_type, item, unknown) for i, item in enumerate(value)]
    if pa.types.is_struct(kind):
        return _record(name, kind, value, unknown)
    raise EventError("invalid_value", f"{name} has a type that JSON events do not carry")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EventError("invalid_value", f"{name} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise EventError("invalid_utf8", f"{name} holds half a surrogate pair") from None
    return value


def _record(name: str, kind: pa.DataType, value: Any, unknown: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EventError("invalid_value", f"{name} is no object")
    names = [kind.field(i).name for i in range(kind.num_fields)]
    missing = [n for n in names if value.get(n) is None]
    if missing:
        raise EventError("missing_field", f"{name}.{missing[0]} is missing or null")
    if not unknown and len(value) > len(names):
        raise EventError("invalid_value", f"{name} must have the fields {', '.join(names)}")
    return {n: _typed(f"{name}.{n}", kind.field(n).type, value[n], unknown) for n in names}
