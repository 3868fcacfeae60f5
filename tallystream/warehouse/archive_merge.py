"""Merging the archive's small files: the same offsets in fewer objects, the old ones removed after the new index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tallystream.failpoints import hit
from tallystream.settings import TOPICS, Settings
from tallystream.store.objects import Store
from tallystream.topics.batch import DEAD_SCHEMA
from tallystream.warehouse.archive import ROWS, archive_lock, make_span
from tallystream.warehouse.archive_files import read, schema_of
from tallystream.warehouse.archive_index import Index, Span, commit, load, partitions, sweep

MANY = 8  # files of the hour that is still being written: fewer are left until it is over


@dataclass
class Merged:
    """What one merge did: files and bytes of the archive before and after."""

    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def merge_archive(settings: Settings, store: Store) -> Merged:
    """Merges neighbouring files of one hour of log time, up to the size of a full one. Killed anywhere, run it again.

    Raises:
        WarehouseError: an archiver is at work, or a file is damaged; what was committed stands.
        StoreError: the store does not answer.
    """
    done = Merged()
    with archive_lock(settings) as scratch:
        for topic in TOPICS:
            for partition in partitions(store, topic):
                index = load(store, topic, partition)
                sweep(store, index)
                _add(done, index, before=True)
                index = _merge(store, scratch, index)
                _add(done, index, before=False)
    return done


def _merge(store: Store, scratch: Path, index: Index) -> Index:
    groups = list(grouped(index.spans))
    if all(len(group) == 1 for group in groups):
        return index
    spans = []
    for group in groups:
        spans.append(group[0] if len(group) == 1 else _one(store, scratch, index, group))
        hit("archive.after_merge_file")
    merged = index.with_spans(spans)
    hit("archive.before_merge_index")
    commit(store, merged)
    hit("archive.after_merge_index")
    sweep(store, merged)
    return merged


def grouped(spans: list[Span]) -> Iterator[list[Span]]:
    """The spans in order, those together that become one file."""
    last = spans[-1].hour if spans else 0
    group: list[Span] = []
    for span in spans:
        full = sum(s.rows + s.dead_rows for s in group) + span.rows + span.dead_rows > ROWS
        if group and (full or span.lost or group[-1].lost or span.hour != group[-1].hour):
            yield from _worth(group, last)
            group = []
        group.append(span)
    if group:
        yield from _worth(group, last)


def _worth(group: list[Span], last: int) -> Iterator[list[Span]]:
    """A merge of the hour being written is done over with the next file: only when there are many."""
    if group[0].hour == last and len(group) < MANY:
        yield from ([span] for span in group)
    else:
        yield group


def _one(store: Store, scratch: Path, index: Index, group: list[Span]) -> Span:
    events = pa.concat_tables([read(store, s.events, schema_of(index.topic)) for s in group])
    dead = pa.concat_tables([read(store, s.dead, DEAD_SCHEMA) for s in group])
    ids = tuple(sorted({i for s in group for i in s.schema_ids}))
    return make_span(store, scratch, group[0].first, group[-1].next, group[0].hour, events, dead, ids)


def _add(done: Merged, index: Index, *, before: bool) -> None:
    pieces = [p for s in index.spans for p in s.pieces]
    files, size = len(pieces), sum(p.size for p in pieces)
    if before:
        done.files_before += files
        done.bytes_before += size
    else:
        done.files_after += files
        done.bytes_after += size
