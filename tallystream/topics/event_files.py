"""Files of events: NDJSON, or the rees46 click data as CSV; gzip or plain, told by their first bytes.

Every line is read before any is published, so what has been read waits in a temporary file:
memory stays bounded, and what is published is what was checked, whatever happens to the file meanwhile.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from tallystream.errors import InputError
from tallystream.topics import ndjson, rees46
from tallystream.topics.contracts import Contract

GZIP = b"\x1f\x8b"
SHOWN = 20  # invalid lines named one by one
BATCH = 8192  # events in memory at once
CUT = (EOFError, zlib.error, gzip.BadGzipFile)  # what reading a cut or damaged gzip file raises
MAX_LINE = 1_000_000  # bytes: what a Kafka message may have by default; the encoded event is never longer
Tick = Callable[[int], None]


@dataclass
class Problems:
    """The invalid lines of a file: how many, and the first of them."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        """Notes an invalid line."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"line {line}: {reason}")

    def raise_if_any(self, name: str) -> None:
        """Refuses the file.

        Raises:
            InputError: it has invalid lines; names the first and counts all.
        """
        if self.count:
            more = [f"… and {self.count - len(self.shown)} more"] if self.count > len(self.shown) else []
            lines = "\n".join(["", *self.shown, *more]).replace("\n", "\n  ")
            noun = "line is" if self.count == 1 else "lines are"
            raise InputError(f"{name}: {self.count} {noun} invalid; nothing was published{lines}")


def read_events(path: str, contract: Contract, spool: Any, tick: Tick = lambda _: None) -> int:
    """Checks a whole file (`-`: standard input) and writes its events to `spool` as an Arrow stream.

    `tick` hears of the bytes read. Returns the number of events; those of other topics, which
    rees46 files hold, are left out.

    Raises:
        InputError: the file is missing or cut, or holds invalid lines: all of them are counted.
    """
    problems = Problems()
    events = 0
    with _open(path) as file, pa.ipc.new_stream(spool, contract.arrow) as writer:
        rows: list[dict[str, Any]] = []
        for event in _events(file, path, contract, problems, tick):
            if problems.count:
                continue
            rows.append(event)
            if len(rows) == BATCH:
                events += _write(writer, contract, rows)
        events += _write(writer, contract, rows)
    problems.raise_if_any(path)
    return events


def _write(writer: pa.ipc.RecordBatchStreamWriter, contract: Contract, rows: list[dict[str, Any]]) -> int:
    count = len(rows)
    writer.write_table(pa.Table.from_pylist(rows, schema=contract.arrow))
    rows.clear()
    return count


def _events(file: IO[bytes], path: str, contract: Contract, problems: Problems, tick: Tick) -> Iterator[dict[str, Any]]:
    lines = _lines(file, tick)
    try:
        first = next(lines, b"")
    except CUT as error:
        raise _cut(path, 1, error) from None
    # A header is not counted as a line.
    is_csv = rees46.is_header(first) or ".csv" in Path(path).suffixes
    if is_csv and not rees46.is_header(first):
        raise InputError(
            f"{path}: the header is not that of rees46 data: {','.join(rees46.HEADER)}; nothing was published"
        )
    read = rees46.read_line if is_csv else ndjson.read_line
    number = 0
    try:
        for line in lines if is_csv else _again(first, lines):
            number += 1
            try:
                if len(line) > MAX_LINE:
                    raise ValueError(f"longer than {MAX_LINE:,} bytes, which no broker takes by default")
                event = read(contract, number, line)
            except (ValueError, RecursionError) as error:
                problems.add(number, str(error) or type(error).__name__)
                continue
            if event is not None:
                yield event
    except CUT as error:
        raise _cut(path, number + 1, error) from None


def _cut(path: str, line: int, error: BaseException) -> InputError:
    return InputError(
        f"{path}: the compressed data are cut or damaged in line {line} ({error}); nothing was published; fetch the file again"
    )


def _again(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from lines


def _lines(file: IO[bytes], tick: Tick) -> Iterator[bytes]:
    """Lines with their ends; of one beyond MAX_LINE only the beginning, which is enough to refuse it."""
    while line := file.readline(MAX_LINE + 1):
        read, rest = len(line), line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE + 1)
            read += len(rest)
        tick(read)
        yield line


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; nothing was published") from None
        packed = cast("Any", raw).peek(2)[:2] == GZIP
        yield stack.enter_context(cast("IO[bytes]", gzip.GzipFile(fileobj=raw))) if packed else raw
