"""A writer's schema, made plain: what its bytes are, without what they mean."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
# Microseconds in one unit of a time; a long without a logical type is read as the contract says: microseconds.
TIME_UNITS = {None: 1, "timestamp-micros": 1, "timestamp-millis": 1000}


def plain(avro: Any) -> Any:
    """The same encoding with logical types, defaults and docs left out, and `int` as `long`.

    An int and a long have the same bytes, but pyruhvro reads an int that needs more than 32 bits as
    another number; and it panics on some logical types (decimal) or refuses (uuid) what is good text.
    """
    if isinstance(avro, str):
        return "long" if avro == "int" else avro
    if isinstance(avro, list):
        return [kind if kind == "int" and "long" in avro else plain(kind) for kind in avro]
    kind = avro["type"]
    if isinstance(kind, dict | list) or kind in PRIMITIVES:
        return plain(kind)
    named = {k: avro[k] for k in ("type", "name", "namespace", "symbols", "size") if k in avro}
    if "fields" in avro:
        named["fields"] = [{"name": f["name"], "type": plain(f["type"])} for f in avro["fields"]]
    return named | {k: plain(avro[k]) for k in ("items", "values") if k in avro}


def vectorisable(avro: Any) -> bool:
    """Whether pyruhvro takes a plain schema; `fastavro` reads the others.

    It panics on `bytes` and `fixed` (and the panic writes to the user's terminal before it can be caught), refuses
    records without fields and maps to null, and a reference could be recursive.
    """
    if isinstance(avro, str):
        return avro in PRIMITIVES - {"bytes"}
    if isinstance(avro, list):
        return all(vectorisable(kind) for kind in avro)
    if avro["type"] == "fixed" or avro.get("fields") == [] or avro.get("values") == "null":
        return False
    return all(vectorisable(part) for part in _parts(avro))


def countless(avro: Any) -> bool:
    """Whether an array has items without bytes: nine bytes could then claim 2**62 of them, and reading would not end."""
    if isinstance(avro, str):
        return False
    if isinstance(avro, list):
        return any(countless(kind) for kind in avro)
    return _bodiless(avro.get("items", "long")) or any(countless(part) for part in _parts(avro))


def only(avro: Any, want: pa.DataType) -> Any:
    """The schema of what `want` keeps: records without the fields that it does not name, at any depth."""
    if isinstance(avro, list):
        return [only(kind, want) for kind in avro]
    if isinstance(avro, dict) and avro["type"] == "array" and pa.types.is_list(want):
        return {**avro, "items": only(avro["items"], want.value_type)}
    if isinstance(avro, dict) and avro["type"] == "record" and pa.types.is_struct(want):
        kept = [f for f in avro["fields"] if want.get_field_index(f["name"]) >= 0]
        return {**avro, "fields": [{**f, "type": only(f["type"], want.field(f["name"]).type)} for f in kept]}
    return avro


def _parts(avro: dict[str, Any]) -> list[Any]:
    return [f["type"] for f in avro.get("fields", [])] + [avro[k] for k in ("items", "values") if k in avro]


def _bodiless(avro: Any) -> bool:
    if isinstance(avro, dict) and avro["type"] == "record":
        return all(_bodiless(f["type"]) for f in avro["fields"])
    return bool(avro == "null" or (isinstance(avro, dict) and avro.get("size") == 0))


def time_unit(avro: Any) -> int | None:
    """Microseconds in one unit of a field that holds a time; None for a type that is no such time."""
    if isinstance(avro, list):
        kinds = [kind for kind in avro if kind != "null"]
        return time_unit(kinds[0]) if len(kinds) == 1 else None
    if isinstance(avro, dict):
        return TIME_UNITS.get(avro.get("logicalType")) if avro["type"] == "long" else None
    return 1 if avro in ("long", "int") else None
