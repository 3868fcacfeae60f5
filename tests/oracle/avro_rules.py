"""What the Avro specification asks of a datum where fastavro, the oracle's reader, is lenient.

fastavro indexes a union's branches as a Python list, so that -1 is the last of them, and reads varints of any
length, whose upper bits it drops. Both are no Avro: "the zero-based position" of a branch, and 64 bits of a long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LONGEST = 10  # bytes of a 64-bit varint
HEADER = 5
WIDTHS = {"null": 0, "boolean": 1, "float": 4, "double": 8}
Kind = Literal["long", "length", "count", "size", "union"]


class BrokenRuleError(Exception):
    """The datum is no Avro, though fastavro may read it."""


@dataclass
class Walk:
    """A walk over one datum by the few types of our schemas; `numbers`: what each varint on it was, and where."""

    data: bytes
    at: int = 0
    numbers: list[tuple[Kind, int, int]] = field(default_factory=list)

    def over(self, schema: Any) -> None:
        """Goes to the end of a value.

        Raises:
            BrokenRuleError: a rule is broken on the way.
            IndexError: the datum ends too early, or has no such branch: fastavro sees both.
        """
        if isinstance(schema, list):
            branch = self._number("union")
            if branch < 0:
                raise BrokenRuleError(f"the branch of a union is {branch}")
            self.over(schema[branch])
            return
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind == "record":
            for part in schema["fields"]:
                self.over(part["type"])
        elif kind == "array":
            self._items(schema["items"])
        elif kind == "string":
            self._skip(self._number("length"))
        elif kind in WIDTHS:
            self._skip(WIDTHS[kind])
        elif kind == "long":
            self._number("long")
        else:
            raise NotImplementedError(f"a schema with {kind}: teach this walk")

    def _items(self, items: Any) -> None:
        while count := self._number("count"):
            if count < 0:
                self._number("size")
            for _ in range(abs(count)):
                self.over(items)

    def _skip(self, n: int) -> None:
        if not 0 <= n <= len(self.data) - self.at:
            raise IndexError
        self.at += n

    def _number(self, kind: Kind) -> int:
        n, start = 0, self.at
        for i in range(LONGEST):
            byte = self.data[self.at]
            self.at += 1
            n |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                self.numbers.append((kind, start, self.at))
                n &= 2**64 - 1
                return (n >> 1) ^ -(n & 1)
        raise BrokenRuleError(f"a varint of more than {LONGEST} bytes")


def broken_rule(value: bytes, schema: Any) -> str | None:
    """The rule that a message breaks, in words; None when it breaks none before its end."""
    try:
        Walk(value, HEADER).over(schema)
    except BrokenRuleError as broken:
        return str(broken)
    except IndexError:
        return None
    return None
