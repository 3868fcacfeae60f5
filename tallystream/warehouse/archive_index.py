"""What the archive holds of a partition: an index of files by offsets, written anew, whole, at each step.

A data file counts from the moment an index names it, and not before: what a crash left beside the index is
removed by the next run. Index N+1 is created, never replaced: two archivers cannot both write it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from tallystream.errors import WarehouseError
from tallystream.store.objects import Entry, ExistsError, Store

FORMAT = 1
ROOT = "archive"
AHEAD = 8  # files between two indexes: a crash repeats no more than these
KEPT = 2  # indexes: a reader may be in the middle of the one before


@dataclass(frozen=True, slots=True)
class Piece:
    """One Parquet object: bytes and sha256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets [first, next) of a partition, all of one hour of log time (hours since the epoch).

    `events` and `dead` are None when there are none; with `lost`, retention removed the offsets before they
    were archived. Event times are microseconds, None without events.
    """

    first: int
    next: int
    hour: int
    rows: int = 0
    dead_rows: int = 0
    min_event_time: int | None = None
    max_event_time: int | None = None
    schema_ids: tuple[int, ...] = ()
    events: Piece | None = None
    dead: Piece | None = None
    lost: bool = False

    @property
    def pieces(self) -> list[Piece]:
        """Its objects."""
        return [p for p in (self.events, self.dead) if p is not None]


@dataclass(frozen=True)
class Index:
    """The spans of a partition, in order, without gaps or overlaps; `sequence` 0 is the index of nothing."""

    topic: str
    partition: int
    topic_id: str | None = None
    sequence: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def first(self) -> int | None:
        """The first offset archived; None when there is none."""
        return self.spans[0].first if self.spans else None

    @property
    def next(self) -> int | None:
        """Where the next span must begin; None when anything may."""
        return self.spans[-1].next if self.spans else None

    def with_spans(self, spans: list[Span]) -> Index:
        """The next index.

        Raises:
            WarehouseError: a gap or an overlap; nothing was written.
        """
        for before, after in pairwise(spans):
            if before.next != after.first:
                raise WarehouseError(
                    f"archive of {self.topic}/{self.partition}: a file ends at {before.next}, the next begins at "
                    f"{after.first}; the archive is unchanged: this is a fault of Tallystream"
                )
        return replace(self, sequence=self.sequence + 1, spans=spans)


def folder(topic: str, partition: int) -> str:
    """Where the index of a partition and its events lie."""
    return f"{ROOT}/{topic}/{partition}"


def piece_path(topic: str, partition: int, first: int, after: int, *, dead: bool) -> str:
    """A file's name is the offsets it holds: the same offsets can only be one file."""
    place = f"{ROOT}/dead_letters/{topic}/{partition}" if dead else folder(topic, partition)
    return f"{place}/{first:020d}-{after:020d}.parquet"


def load(store: Store, topic: str, partition: int) -> Index:
    """The newest index of a partition.

    Raises:
        WarehouseError: it is damaged; nothing is read or written on the strength of an older one.
    """
    entries = store.list(folder(topic, partition))
    names = _indexes(entries)
    if not names:
        if len(entries) > AHEAD:
            raise WarehouseError(
                f"{store.url}/{folder(topic, partition)} has {len(entries)} files and no index: it was removed, for a crash "
                f"leaves no more than {AHEAD}; nothing was changed: put the index back from a copy of the store"
            )
        return Index(topic, partition)
    try:
        body = json.loads(store.get(names[-1]))
        checksum = body.pop("checksum")
    except (ValueError, KeyError, AttributeError):
        body, checksum = {}, None
    if checksum != _checksum(body):
        raise WarehouseError(
            f"{store.url}/{names[-1]} is damaged; nothing was changed: put it back from a copy of the store"
        )
    if body.pop("format") != FORMAT:
        raise WarehouseError(
            f"{store.url}/{names[-1]} was written by a newer Tallystream; nothing was changed: use that one"
        )
    return Index(**{**body, "spans": [_span(s) for s in body["spans"]]})


def commit(store: Store, index: Index) -> None:
    """Writes the next index; from now on it is the archive.

    Raises:
        WarehouseError: another archiver wrote it first; what this one wrote does not count.
    """
    body = json.loads(json.dumps({"format": FORMAT, **asdict(index)}))
    text = json.dumps({**body, "checksum": _checksum(body)})
    try:
        store.put(
            f"{folder(index.topic, index.partition)}/index-{index.sequence:020d}.json", text.encode(), create=True
        )
    except ExistsError:
        raise WarehouseError(
            f"another `tally archive` is at work on {index.topic}/{index.partition} in {store.url}; "
            "what this one wrote does not count: run again when the other is done"
        ) from None


def sweep(store: Store, index: Index) -> int:
    """Removes what the index does not name: left by a crash, or merged into larger files. Returns how many."""
    places = (folder(index.topic, index.partition), f"{ROOT}/dead_letters/{index.topic}/{index.partition}")
    entries = [e for place in places for e in store.list(place)]
    named = {p.path for s in index.spans for p in s.pieces} | set(_indexes(entries)[-KEPT:])
    gone = [e.path for e in entries if e.path not in named]
    store.delete(gone)
    return len(gone)


def partitions(store: Store, topic: str) -> list[int]:
    """The partitions of a topic that the archive has."""
    names: Iterable[str] = (e.path.split("/")[2] for e in store.list(f"{ROOT}/{topic}"))
    return sorted({int(name) for name in names if name.isdecimal()})


def _indexes(entries: Iterable[Entry]) -> list[str]:
    return [e.path for e in entries if e.path.rsplit("/", 1)[1].startswith("index-")]


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _span(body: dict[str, Any]) -> Span:
    pieces = {name: Piece(**body[name]) if body[name] else None for name in ("events", "dead")}
    return Span(**{**body, **pieces, "schema_ids": tuple(body["schema_ids"])})
