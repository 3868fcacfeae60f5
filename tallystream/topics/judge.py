"""Judge: dead, late, duplicate or applied, a function of the partition's log prefix alone.

No clock and no other partition: one clock for several partitions is what makes other engines
drop 9-54 % of the events, silently, when they catch up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tallystream.errors import SettingsError
from tallystream.topics.batch import LATE_SCHEMA, DecodedBatch, JudgedBatch
from tallystream.topics.letters import LAST_TIME, dead_letters, record_times
from tallystream.topics.memory import NEVER, Ids, Memory, hash_ids, hash_order, pack

APPLIED, LATE, DUPLICATE, AHEAD = range(4)
# Longer than all times that a contract allows, and far from an overflow.
FOREVER = 10**18


@dataclass(frozen=True, slots=True)
class Rules:
    """How late is late, how long an id is remembered, how far ahead a clock may be: microseconds.

    Raises:
        SettingsError: the horizon is below the lateness; a copy could be neither late nor known.
    """

    lateness_us: int
    horizon_us: int
    max_ahead_us: int

    def __post_init__(self) -> None:
        if self.horizon_us < self.lateness_us:
            raise SettingsError("the duplicate horizon is below the lateness: a copy could count twice; raise it")
        for name in ("lateness_us", "horizon_us", "max_ahead_us"):
            object.__setattr__(self, name, min(getattr(self, name), FOREVER))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The events of a batch as the rules see them, one element an event, in log order."""

    times: np.ndarray  # int64, microseconds
    low: np.ndarray  # uint64, the id's hash
    high: np.ndarray
    ahead: np.ndarray  # bool: dead by its clock
    remembered: np.ndarray  # int64: the greatest time under which earlier batches accepted the id, or NEVER
    order: np.ndarray  # rows sorted by `low`


class Judge:
    """Judges one partition, batch after batch; the batches' boundaries change nothing.

    For each event in log order, `newest` being the greatest time applied before it:

    1. dead when its time is further ahead of the record's own timestamp (if it has one) than the bound;
    2. late when time < newest - lateness;
    3. duplicate when the id was applied before with a time >= newest - horizon; older ids are forgotten;
    4. else applied.

    `memory` holds the BLOBs of earlier batches in log order: with `max_event_time` they are the whole state.
    """

    def __init__(
        self, topic: str, partition: int, rules: Rules, max_event_time: int | None = None, memory: Iterable[bytes] = ()
    ):
        self.topic = topic
        self.partition = partition
        self.rules = rules
        self._newest = NEVER if max_event_time is None else max_event_time
        self._memory = Memory(memory)

    def follow(self, rules: Rules) -> None:
        """Judges by these rules from here on. Ids that those until now have forgotten stay so under a longer horizon."""
        if rules != self.rules:
            if self._newest != NEVER:
                self._memory.forget(self._newest - self.rules.horizon_us)
            self.rules = rules

    def judge(self, decoded: DecodedBatch) -> JudgedBatch:
        """The verdicts on a batch; consumed == applied + duplicate + late + dead."""
        raw = decoded.raw
        rows = self._rows(decoded)
        verdicts = self._verdicts(rows)
        applied = verdicts == APPLIED
        kept = rows.order[applied[rows.order]]
        ids = Ids(rows.low[kept], rows.high[kept], rows.times[kept])
        newest = int(ids.times.max()) if len(ids) else None
        if newest is not None:
            self._newest = max(self._newest, newest)
            self._memory.add(ids, self._newest - self.rules.horizon_us)
        return JudgedBatch(
            topic=self.topic,
            partition=self.partition,
            first=raw.first,
            next=raw.next,
            consumed=len(raw.values),
            duplicate=int(np.count_nonzero(verdicts == DUPLICATE)),
            applied=decoded.events if len(ids) == len(applied) else decoded.events.filter(pa.array(applied)),
            late=self._late(decoded, np.flatnonzero(verdicts == LATE)),
            dead=self._dead(decoded, np.flatnonzero(verdicts == AHEAD), rows.times),
            memory=pack(ids),
            memory_max_time=newest,
            max_event_time=None if self._newest == NEVER else self._newest,
            schema_ids=decoded.schema_ids,
            min_event_time=int(ids.times.min()) if len(ids) else None,
            last=raw.last,
        )

    def _rows(self, decoded: DecodedBatch) -> _Rows:
        times = decoded.events["event_time"].cast(pa.int64()).to_numpy()
        low, high = hash_ids(decoded.events["event_id"])
        order = hash_order(low)
        remembered = np.empty(len(low), np.int64)
        remembered[order] = self._memory.newest(Ids(low[order], high[order], times))
        stamps = decoded.raw.timestamps[decoded.rows]
        # A producer sets the timestamp freely: a huge one must not wrap around.
        bound = np.minimum(stamps, LAST_TIME // 1000) * 1000 + self.rules.max_ahead_us
        return _Rows(times, low, high, (stamps >= 0) & (times > bound), remembered, order)

    def _verdicts(self, rows: _Rows) -> np.ndarray:
        """All rows at once, supposing that no duplicate moves the clock; when one does, row by row.

        The supposition is checked, not trusted: `newest` is exact for a row when every duplicate before it was not
        ahead of its own `newest`. Late rows are behind it by definition.
        """
        n = len(rows.times)
        verdicts = np.full(n, APPLIED, np.int8)
        if not n:
            return verdicts
        moving = np.where(rows.ahead, NEVER, rows.times)
        newest = np.maximum.accumulate(np.concatenate([[self._newest], moving[:-1]]))
        late_before = np.where(newest == NEVER, NEVER, newest - self.rules.lateness_us)
        known_from = np.where(newest == NEVER, NEVER, newest - self.rules.horizon_us)
        verdicts[rows.times < late_before] = LATE
        verdicts[rows.ahead] = AHEAD
        duplicate = (verdicts == APPLIED) & (rows.remembered != NEVER) & (rows.remembered >= known_from)
        for again, first in _repeats(rows, verdicts == APPLIED):
            here = NEVER if duplicate[first] else rows.times[first]
            if max(rows.remembered[again], here) < known_from[again]:
                return self._row_by_row(rows)  # forgotten within the batch
            duplicate[again] = True
        if (duplicate & (rows.times > newest)).any():
            return self._row_by_row(rows)
        verdicts[duplicate] = DUPLICATE
        return verdicts

    def _row_by_row(self, rows: _Rows) -> np.ndarray:
        """The definition itself, for the rare batch where a copy has another time than the event it repeats."""
        verdicts = np.full(len(rows.times), APPLIED, np.int8)
        newest, here = self._newest, dict[tuple[int, int], int]()
        ids = zip(rows.low.tolist(), rows.high.tolist(), strict=True)
        facts = zip(rows.times.tolist(), ids, rows.ahead.tolist(), rows.remembered.tolist(), strict=True)
        for i, (time, key, ahead, remembered) in enumerate(facts):
            known = max(remembered, here.get(key, NEVER))
            if ahead:
                verdicts[i] = AHEAD
            elif newest != NEVER and time < newest - self.rules.lateness_us:
                verdicts[i] = LATE
            elif known != NEVER and known >= newest - self.rules.horizon_us:
                verdicts[i] = DUPLICATE
            else:
                here[key] = max(time, here.get(key, NEVER))
                newest = max(newest, time)
        return verdicts

    def _late(self, decoded: DecodedBatch, at: np.ndarray) -> pa.Table:
        if not len(at):
            return LATE_SCHEMA.empty_table()
        raw, rows = decoded.raw, decoded.rows[at]
        events = decoded.events.take(pa.array(at))
        columns = [
            pa.repeat(pa.scalar(self.topic), len(at)),
            pa.repeat(pa.scalar(self.partition, pa.int32()), len(at)),
            pa.array(raw.offsets[rows]),
            pa.repeat(pa.scalar("late"), len(at)),
            events["event_id"],
            events["event_type"],
            events["event_time"],
            record_times(raw.timestamps[rows]),
            pa.array([raw.keys[i] for i in rows.tolist()], pa.binary()),
            pa.array([raw.values[i] for i in rows.tolist()], pa.binary()),
        ]
        return pa.Table.from_arrays(columns, schema=LATE_SCHEMA)

    def _dead(self, decoded: DecodedBatch, at: np.ndarray, times: np.ndarray) -> pa.Table:
        if not len(at):
            return decoded.dead
        rows = decoded.rows[at]
        ahead = (times[at] - decoded.raw.timestamps[rows] * 1000) // 1_000_000
        reasons = [("clock_ahead", f"event_time is {s} s ahead of the record's own timestamp") for s in ahead.tolist()]
        both = pa.concat_tables([decoded.dead, dead_letters(decoded.raw, rows.tolist(), reasons)])
        return both.sort_by("offset")


def _repeats(rows: _Rows, mask: np.ndarray) -> list[tuple[int, int]]:
    """(row, first row with the same id) among the rows in `mask`, for every row that is not the first; ascending."""
    low = rows.low[rows.order]
    pairs = np.flatnonzero(low[1:] == low[:-1])
    if not len(pairs):
        return []
    # Few rows share a half of their hash with another: only those are sorted out exactly.
    members = np.unique(np.concatenate([rows.order[pairs], rows.order[pairs + 1]]))
    members = members[mask[members]]
    seen: dict[tuple[int, int], int] = {}
    found = []
    for row, key in zip(
        members.tolist(), zip(rows.low[members].tolist(), rows.high[members].tolist(), strict=True), strict=True
    ):
        first = seen.setdefault(key, row)
        if first != row:
            found.append((row, first))
    return found
