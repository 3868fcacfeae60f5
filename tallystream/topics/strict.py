"""What Avro asks of a datum and fastavro does not: branches that exist, and numbers of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LONGEST = 10  # bytes of a 64-bit varint
BYTES = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class StrictWalk:
    """Walks over data of one plain schema.

    fastavro takes branch -1 of a union, and symbol -1 of an enum, for the last one, and reads varints of any length
    without their upper bits. Without this walk a message would be an event under a schema that fastavro reads and a
    dead letter under one that pyruhvro reads.
    """

    def __init__(self, parsed: Any):
        """`parsed`: as fastavro parses it, with full names."""
        self._schema = parsed
        self._named = {part["name"]: part for part in _named(parsed)}

    def check(self, data: bytes, at: int) -> None:
        """Walks over the datum that begins at `at`.

        Raises:
            ValueError: a rule is broken.
            IndexError: the datum ends before its schema does.
        """
        self._over(self._schema, data, at)

    def _over(self, schema: Any, data: bytes, at: int) -> int:
        """The position after a value."""
        if isinstance(schema, list):
            branch, at = _long(data, at)
            return self._over(schema[_index(branch, schema, "branch of a union")], data, at)
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind in BYTES:
            return _skip(data, at, BYTES[kind])
        if kind == "record":
            for part in schema["fields"]:
                at = self._over(part["type"], data, at)
            return at
        if kind in ("array", "map"):
            return self._blocks(schema, data, at)
        if kind == "fixed":
            return _skip(data, at, schema["size"])
        if kind in self._named:
            return self._over(self._named[kind], data, at)
        number, at = _long(data, at)
        if kind == "enum":
            _index(number, schema["symbols"], "symbol of an enum")
        return _skip(data, at, number) if kind in ("bytes", "string") else at

    def _blocks(self, schema: Any, data: bytes, at: int) -> int:
        parts = [schema["items"]] if schema["type"] == "array" else ["string", schema["values"]]
        while True:
            count, at = _long(data, at)
            if count == 0:
                return at
            if count < 0:
                _, at = _long(data, at)
            for _ in range(abs(count)):
                for part in parts:
                    at = self._over(part, data, at)


def _named(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for part in schema:
            yield from _named(part)
    elif isinstance(schema, dict):
        if "name" in schema:
            yield schema
        for part in [f["type"] for f in schema.get("fields", [])] + [schema.get("items"), schema.get("values")]:
            yield from _named(part)


def _index(number: int, among: list[Any], what: str) -> int:
    if not 0 <= number < len(among):
        raise ValueError(f"{number} is no {what} of {len(among)}")
    return number


def _skip(data: bytes, at: int, n: int) -> int:
    if n < 0:
        raise ValueError(f"a length of {n} bytes")
    # Without this, nine bytes that claim 2**62 booleans would be walked to no end.
    if at + n > len(data):
        raise IndexError
    return at + n


def _long(data: bytes, at: int) -> tuple[int, int]:
    n = 0
    for i in range(LONGEST):
        byte = data[at + i]
        n |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            n &= 2**64 - 1
            return (n >> 1) ^ -(n & 1), at + i + 1
    raise ValueError(f"a varint of more than {LONGEST} bytes")
