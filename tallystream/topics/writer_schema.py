"""A writer's schema, made plain: what its bytes are, without what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
LARGEST = 1000  # parts of a schema: a contract has some twenty
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


def unreadable(avro: Any, named: dict[str, Any]) -> str | None:
    """Why no reader may take data of a schema, however short they are; None when one may.

    `avro` and `named` as fastavro parses them: full names, and what they name. Types that hold each other twice make 2**n
    parts of n, and an array of items without bytes has as many as nine bytes can claim: reading would not end, and the
    message would be met again at each start.
    """
    if sum(1 for _ in islice(_resolved(avro, named), LARGEST + 1)) > LARGEST:
        return f"the writer's schema has more than {LARGEST} parts with its references resolved"
    for part in _resolved(avro, named):
        if isinstance(part, dict) and part["type"] in ("array", "map"):
            inside = part.get("items", part.get("values"))
            if part["type"] == "map" and inside == "null":
                continue  # its keys take bytes
            if _bodiless(inside, named) or any(_holds_bodiless(inner, named) for inner in _resolved(inside, named)):
                return f"the writer's schema has an {part['type']} of items with parts that take no bytes"
    return None


def recursive(avro: Any, named: dict[str, Any]) -> bool:
    """Whether a type holds itself."""
    return any(isinstance(part, str) and part in named for part in _resolved(avro, named))


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


def _resolved(avro: Any, named: dict[str, Any], above: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Every part of a schema with references resolved; a type inside itself is left as its name."""
    if isinstance(avro, str) and avro in named and avro not in above:
        avro = named[avro]
    yield avro
    if isinstance(avro, dict):
        above |= {avro["name"]} if "name" in avro else frozenset()
    for part in avro if isinstance(avro, list) else _parts(avro) if isinstance(avro, dict) else ():
        yield from _resolved(part, named, above)


def _bodiless(avro: Any, named: dict[str, Any]) -> bool:
    avro = named.get(avro, avro) if isinstance(avro, str) else avro
    return avro == "null" or (isinstance(avro, dict) and (avro.get("size") == 0 or avro.get("fields") == []))


def _holds_bodiless(avro: Any, named: dict[str, Any]) -> bool:
    """A branch of a union costs the byte that says which."""
    return isinstance(avro, dict) and any(_bodiless(part, named) for part in _parts(avro))


def time_unit(avro: Any) -> int | None:
    """Microseconds in one unit of a field that holds a time; None for a type that is no such time."""
    if isinstance(avro, list):
        kinds = [kind for kind in avro if kind != "null"]
        return time_unit(kinds[0]) if len(kinds) == 1 else None
    if isinstance(avro, dict):
        return TIME_UNITS.get(avro.get("logicalType")) if avro["type"] == "long" else None
    return 1 if avro in ("long", "int") else None
