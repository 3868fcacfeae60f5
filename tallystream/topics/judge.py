"""Judge: dead, late, duplicate or applied, a function of the partition's log prefix alone.

No clock and no other partition: one clock for several partitions is what makes other engines
drop 9-54 % of the events, silently, when they catch up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tallystream.topics.batch import LATE_SCHEMA, DecodedBatch, JudgedBatch
from tallystream.topics.letters import dead_letters, record_times
from tallystream.topics.memory import Hashes, Memory, hash_ids, pack

NEVER = int(np.iinfo(np.int64).min)
APPLIED, LATE, DUPLICATE, AHEAD = range(4)


@dataclass(frozen=True, slots=True)
class Rules:
    """How late is late, how long an id is remembered, how far ahead a clock may be: microseconds."""

    lateness_us: int
    horizon_us: int
    max_ahead_us: int


class Judge:
    """Judges one partition, batch after batch; the batches' boundaries change nothing.

    In this order: dead when event_time is further ahead of the record's own timestamp than the
    bound; late when event_time < newest - lateness; duplicate when the id was accepted with a time >=
    newest - horizon; else applied. `newest` is the greatest event time applied before.
    """

    def __init__(
        self, topic: str, partition: int, rules: Rules, max_event_time: int | None = None, memory: Iterable[bytes] = ()
    ):
        self.topic = topic
        self.partition = partition
        self.rules = rules
        self._newest = NEVER if max_event_time is None else max_event_time
        self._memory = Memory(memory)

    def judge(self, decoded: DecodedBatch) -> JudgedBatch:
        """The verdicts on a batch; consumed == applied + duplicate + late + dead."""
        raw, events, rows = decoded.raw, decoded.events, decoded.rows
        times = events["event_time"].cast(pa.int64()).to_numpy()
        hashes = hash_ids(events["event_id"])
        stamps = raw.timestamps[rows]
        ahead = (stamps >= 0) & (times > stamps * 1000 + self.rules.max_ahead_us)
        verdicts = self._verdicts(times, hashes, ahead)
        applied = verdicts == APPLIED
        all_applied = bool(applied.all())
        kept_times = times if all_applied else times[applied]
        kept: Hashes = hashes if all_applied else (hashes[0][applied], hashes[1][applied])
        if len(kept_times):
            self._newest = max(self._newest, int(kept_times.max()))
            self._memory.add(kept, kept_times, self._newest - self.rules.horizon_us)
        return JudgedBatch(
            topic=self.topic,
            partition=self.partition,
            first=raw.first,
            next=raw.next,
            consumed=len(raw.values),
            duplicate=int((verdicts == DUPLICATE).sum()),
            applied=events if all_applied else events.filter(pa.array(applied)),
            late=self._late(decoded, np.flatnonzero(verdicts == LATE)),
            dead=self._dead(decoded, np.flatnonzero(verdicts == AHEAD), times),
            memory=pack(kept, kept_times) if len(kept_times) else b"",
            memory_max_time=int(kept_times.max()) if len(kept_times) else None,
            max_event_time=None if self._newest == NEVER else self._newest,
            schema_ids=decoded.schema_ids,
        )

    def _verdicts(self, times: np.ndarray, hashes: Hashes, ahead: np.ndarray) -> np.ndarray:
        """All at once; exact while copies are copies.

        An exact copy cannot move the clock, and one that is not late lies within the horizon. A copy of
        an id under another time can do both, so a batch with such a one is judged row by row.
        """
        verdicts = np.full(len(times), APPLIED, np.int8)
        verdicts[ahead] = AHEAD
        if not len(times):
            return verdicts
        moving = np.where(ahead, NEVER, times)
        before = np.empty(len(times), np.int64)
        before[0] = self._newest
        np.maximum.accumulate(np.maximum(moving[:-1], self._newest), out=before[1:])
        floor = np.where(before == NEVER, NEVER, before - self.rules.lateness_us)
        verdicts[~ahead & (times < floor)] = LATE
        remembered = self._memory.newest(hashes)
        first = _first_of_each(hashes, verdicts == APPLIED)
        # The time under which this id is known at this row: from earlier batches, or from the batch itself.
        known = np.maximum(remembered, np.where(first < np.arange(len(times)), times[first], NEVER))
        candidates = (verdicts == APPLIED) & (known != NEVER)
        if (candidates & (times != known)).any():
            return self._row_by_row(times, hashes, ahead, remembered)
        verdicts[candidates] = DUPLICATE
        return verdicts

    def _row_by_row(self, times: np.ndarray, hashes: Hashes, ahead: np.ndarray, remembered: np.ndarray) -> np.ndarray:
        """The definition itself, for the rare batch where a copy moves the clock or outlives the horizon."""
        verdicts = np.full(len(times), APPLIED, np.int8)
        newest, here = self._newest, dict[tuple[int, int], int]()
        ids = zip(hashes[0].tolist(), hashes[1].tolist(), strict=True)
        rows = zip(times.tolist(), ids, ahead.tolist(), remembered.tolist(), strict=True)
        for i, (time, key, is_ahead, before) in enumerate(rows):
            if is_ahead:
                verdicts[i] = AHEAD
                continue
            if newest != NEVER and time < newest - self.rules.lateness_us:
                verdicts[i] = LATE
                continue
            known = max(before, here.get(key, NEVER))
            if known != NEVER and known >= newest - self.rules.horizon_us:
                verdicts[i] = DUPLICATE
                continue
            here[key] = max(time, here.get(key, NEVER))
            newest = max(newest, time)
        return verdicts

    def _late(self, decoded: DecodedBatch, at: np.ndarray) -> pa.Table:
        if not len(at):
            return LATE_SCHEMA.empty_table()
        raw, rows = decoded.raw, decoded.rows[at]
        events = decoded.events.take(pa.array(at)).combine_chunks()
        n = len(at)
        columns = [
            pa.array([self.topic] * n, pa.string()),
            pa.array([self.partition] * n, pa.int32()),
            pa.array(raw.offsets[rows]),
            pa.array(["late"] * n, pa.string()),
            events["event_id"],
            events["event_type"],
            events["event_time"],
            record_times(raw.timestamps[rows]),
            pa.array([raw.keys[i] for i in rows], pa.binary()),
            pa.array([raw.values[i] for i in rows], pa.binary()),
        ]
        return pa.Table.from_arrays(columns, schema=LATE_SCHEMA)

    def _dead(self, decoded: DecodedBatch, at: np.ndarray, times: np.ndarray) -> pa.Table:
        if not len(at):
            return decoded.dead
        rows = decoded.rows[at]
        stamps = decoded.raw.timestamps[rows]
        reasons = [
            ("clock_ahead", f"event_time is {(t - s * 1000) // 1_000_000} s ahead of the record's own timestamp")
            for t, s in zip(times[at].tolist(), stamps.tolist(), strict=True)
        ]
        both = pa.concat_tables([decoded.dead, dead_letters(decoded.raw, rows.tolist(), reasons)])
        return both.sort_by("offset")


def _first_of_each(hashes: Hashes, mask: np.ndarray) -> np.ndarray:
    """By row the first row in `mask` with the same id; the row itself when it is the first."""
    low, high = hashes
    first = np.arange(len(low))
    rows = np.flatnonzero(mask)
    if len(rows) < 2:
        return first
    order = rows[np.argsort(low[rows], kind="stable")]
    suspicious = np.flatnonzero(low[order][1:] == low[order][:-1])
    if not len(suspicious):
        return first
    # Few rows share an id with another: only those are sorted out exactly.
    members = np.unique(np.concatenate([order[suspicious], order[suspicious + 1]]))
    seen: dict[tuple[int, int], int] = {}
    for i in members.tolist():
        first[i] = seen.setdefault((int(low[i]), int(high[i])), i)
    return first
