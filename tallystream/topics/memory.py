"""What a judge remembers: 128-bit hashes of accepted event ids with their event times.

A Python set costs 280-300 ns an id. Here a Bloom filter answers "never seen" for all but one in some hundred, and
only those few are looked up in runs sorted by hash. Runs are merged up to a bound, so that thousands of tiny
batches stay cheap, and dropped whole when their newest time is too old.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa

from tallystream.errors import WarehouseError

VERSION = 2  # of the packed form and of the hash: a change of either makes stored memory unreadable
HEAD = struct.Struct("<BI")
RUN = 1 << 18  # ids in a merged run: 5 M ids are then about 20 runs, and a merge moves 6 MB at most
# Bits of the filter for an id when it is built, and when it is so full that it is built anew: 0.1-1 % false hits.
SPARSE, DENSE = 32, 16
PROBES = 3  # bits that an id sets in its one word: one memory access, whatever their number
NEVER = int(np.iinfo(np.int64).min)
LOW_HALF = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Ids:
    """Event ids as hashes with their times, sorted by the low half. One element an id."""

    low: np.ndarray  # uint64
    high: np.ndarray  # uint64
    times: np.ndarray  # int64, microseconds

    def __len__(self) -> int:
        return len(self.low)

    def take(self, at: np.ndarray) -> Ids:
        """The ids at `at`, indices or a mask."""
        return Ids(self.low[at], self.high[at], self.times[at])


def hash_ids(ids: pa.ChunkedArray | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """MurmurHash3 x64 128 of each id's UTF-8, as low and high half (uint64): the same in every version."""
    frame = pl.DataFrame({"id": pl.from_arrow(ids)}).select(hash=plh.col("id").nchash.murmur128())
    # Neither numpy nor Arrow knows 128-bit integers.
    halves = frame.select(
        low=(pl.col("hash") & pl.lit(LOW_HALF, pl.UInt128)).cast(pl.UInt64),
        high=(pl.col("hash") // pl.lit(LOW_HALF + 1, pl.UInt128)).cast(pl.UInt64),
    )
    return halves["low"].to_numpy(), halves["high"].to_numpy()


def pack(ids: Ids) -> bytes:
    """The ids accepted in one batch as one BLOB: version (u8), count (u32), low, high, times, little-endian."""
    if not len(ids):
        return b""
    parts = (ids.low.astype("<u8"), ids.high.astype("<u8"), ids.times.astype("<i8"))
    return HEAD.pack(VERSION, len(ids)) + b"".join(part.tobytes() for part in parts)


def unpack(blob: bytes) -> Ids:
    """The inverse of `pack`.

    Raises:
        WarehouseError: the BLOB is of another version, or cut; read wrongly, it would let copies count twice.
    """
    version, n = HEAD.unpack_from(blob) if len(blob) >= HEAD.size else (0, 0)
    if version != VERSION or len(blob) != HEAD.size + 24 * n:
        raise WarehouseError(
            f"the judge's memory in the warehouse is unreadable (version {version}, {len(blob)} bytes for {n} ids; "
            f"version {VERSION} is read); nothing was changed: restore a snapshot, or reset and read the log again"
        )
    low, high, times = (
        np.frombuffer(blob, kind, n, HEAD.size + 8 * n * i) for i, kind in enumerate(("<u8", "<u8", "<i8"))
    )
    return Ids(low, high, times)


def younger(blob: bytes, before: int) -> bytes:
    """A packed BLOB without the ids whose times are before `before`."""
    ids = unpack(blob) if blob else None
    return b"" if ids is None else pack(ids.take(ids.times >= before))


@dataclass(frozen=True, slots=True)
class _Run:
    ids: Ids
    newest: int  # the greatest of its times


class Memory:
    """Ids accepted in one partition. Which of them still count is the caller's rule: `newest` tells the time.

    An id is accepted again only when its earlier time is forgotten, so of several times the last accepted
    is the greatest: blobs must come in log order.
    """

    def __init__(self, blobs: Iterable[bytes] = ()):
        self._runs: list[_Run] = []  # in log order
        self._filter = np.zeros(1 << 7, np.uint64)
        self._marked = 0
        stored = [unpack(blob) for blob in blobs if blob]
        for i in range(0, len(stored), 64):
            self.add(_merge(stored[i : i + 64]), NEVER)

    def __len__(self) -> int:
        return sum(len(run.ids) for run in self._runs)

    def newest(self, ids: Ids) -> np.ndarray:
        """By id the last time under which it was accepted; the least int64 when it was not. `times` is not read."""
        found = np.full(len(ids), NEVER)
        word, bits = self._place(ids)
        asked = np.flatnonzero((self._filter[word] & bits) == bits)
        for run in reversed(self._runs):
            if not len(asked):
                break
            times = _look_up(run.ids, ids.low[asked], ids.high[asked])
            found[asked] = times
            asked = asked[times == NEVER]
        return found

    def add(self, ids: Ids, keep_from: int) -> None:
        """Remembers ids, newer than all before; runs whose every time is before `keep_from` are dropped."""
        self._runs = [run for run in self._runs if run.newest >= keep_from]
        if not len(ids):
            return
        self._marked += len(ids)
        if not self._full():
            self._mark(ids)
        newest = int(ids.times.max())
        while self._runs and len(self._runs[-1].ids) <= min(2 * len(ids), RUN - len(ids)):
            older = self._runs.pop()
            ids, newest = _merge([older.ids, ids]), max(older.newest, newest)
        self._runs.append(_Run(ids, newest))
        if self._full():
            self._rebuild()

    def forget(self, before: int) -> None:
        """Forgets every id accepted with a time before `before`, and no other."""
        kept = [run.ids.take(run.ids.times >= before) for run in self._runs]
        self._runs = [_Run(ids, int(ids.times.max())) for ids in kept if len(ids)]

    def _full(self) -> bool:
        return self._marked * DENSE > len(self._filter) * 64

    def _place(self, ids: Ids) -> tuple[np.ndarray, np.ndarray]:
        """Word and bits in the filter. The word by the highest bits: sorted ids walk through the filter in order."""
        word = (ids.low >> np.uint64(65 - len(self._filter).bit_length())).view(np.int64)
        bits = np.zeros(len(ids), np.uint64)
        for probe in range(PROBES):
            bits |= np.uint64(1) << ((ids.high >> np.uint64(6 * probe)) & np.uint64(63))
        return word, bits

    def _mark(self, ids: Ids) -> None:
        word, bits = self._place(ids)
        starts = np.flatnonzero(np.concatenate([[True], word[1:] != word[:-1]]))
        self._filter[word[starts]] |= np.bitwise_or.reduceat(bits, starts)

    def _rebuild(self) -> None:
        self._marked = len(self)
        self._filter = np.zeros(1 << max(7, (self._marked * SPARSE // 64).bit_length()), np.uint64)
        for run in self._runs:
            self._mark(run.ids)


def hash_order(low: np.ndarray) -> np.ndarray:
    """The rows sorted by hash: two radix passes over its upper half, four times as fast as a sort."""
    words = np.ascontiguousarray(low, "<u8").view("<u2").reshape(-1, 4)
    order = np.argsort(words[:, 2], kind="stable")
    order = order[np.argsort(words[order, 3], kind="stable")]
    hashes = low[order]
    # A few rows in a batch share their upper half; what is nearly sorted is quickly sorted.
    return order if (hashes[1:] >= hashes[:-1]).all() else order[np.argsort(hashes, kind="stable")]


def _look_up(run: Ids, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """By hash its greatest time in the run, NEVER when it is not there."""
    found = np.full(len(low), NEVER)
    at = np.searchsorted(run.low, low)
    active = np.arange(len(low))
    # Ids that share the low half stand side by side: look on until it changes.
    while True:
        active = active[at[active] < len(run)]
        active = active[run.low[at[active]] == low[active]]
        if not len(active):
            return found
        same = active[run.high[at[active]] == high[active]]
        found[same] = np.maximum(found[same], run.times[at[same]])
        at[active] += 1


def _merge(runs: list[Ids]) -> Ids:
    low, high, times = (np.concatenate([getattr(run, name) for run in runs]) for name in ("low", "high", "times"))
    # Stable is the merge of sorted runs here, ten times as fast as a sort.
    return Ids(low, high, times).take(np.argsort(low, kind="stable"))
