"""Decode, judge and tally: plain functions over batches; Bytewax only carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream, Stream

from dataflows.faults import guarded
from dataflows.source import TopicSource
from dataflows.stop import stopping
from tallystream.errors import StoppedError
from tallystream.failpoints import hit
from tallystream.job import Job, Work
from tallystream.topics.batch import DecodedBatch, Delta, JudgedBatch, RawBatch
from tallystream.topics.decode import Decoder
from tallystream.topics.judge import Judge
from tallystream.topics.registry import open_registry
from tallystream.views.tally import Tallier

SINK_KEY = "warehouse"
OUTAGE = 300.0  # seconds that a schema registry is waited for: longer than its restart, shorter than a night


def decode(name: str, up: Stream[Work], job: Job, topic: str) -> Stream[Work]:
    """Bytes to Arrow by the topic's contract; what cannot be read becomes dead letters.

    While a schema registry is away all waits here, and nothing more is read. Asked to end meanwhile, the batch in
    hand is dropped with all that follow it: none of them may be committed without it.
    """
    decoder = Decoder(topic, open_registry(job.settings, OUTAGE, stopping))
    ended = False

    def step(work: Work) -> list[Work]:
        nonlocal ended
        assert isinstance(work.batch, RawBatch)
        if ended:
            return []
        try:
            decoded = decoder.decode(work.batch)
        except StoppedError:
            ended = True
            return []
        hit("decode.after")
        return [replace(work, batch=decoded)]

    return op.flat_map(name, up, guarded(step))


def judge(name: str, up: Stream[Work], job: Job, topic: str) -> Stream[Work]:
    """Dead, late, duplicate or applied: by partition, from the log's prefix alone.

    A view being built meets the log from its start with a judge of its own, whose memory is not kept: it judges each offset
    by the rules of then, or the view would disagree with the books.
    """
    live = {s.partition: Judge(topic, s.partition, job.rules, s.max_event_time, s.memory) for s in job.mine(topic)}
    histories = {s.partition: s.rules for s in job.mine(topic) if s.building}
    building = {p: Judge(topic, p, rules.at(0)) for p, rules in histories.items()}

    def step(work: Work) -> Work:
        assert isinstance(work.batch, DecodedBatch)
        raw = work.batch.raw
        if work.building:
            building[raw.partition].follow(histories[raw.partition].at(raw.first))
        judged = (building if work.building else live)[raw.partition].judge(work.batch)
        hit("judge.after")
        return replace(work, batch=judged)

    return op.map(name, up, guarded(step))


def tally(name: str, up: Stream[Work], job: Job) -> KeyedStream[list[Delta]]:
    """Each view's partial over the accepted events: what the sink will merge.

    Made once for all batches that come together, one of each partition: a query over a few hundred events costs as much
    as one over a few thousand. Their Deltas stay together too, for the first has the rows of all.
    """
    tallier = Tallier(job.plans)

    def step(works: list[Work]) -> list[tuple[str, list[Delta]]]:
        groups: dict[frozenset[str], list[JudgedBatch]] = {}
        for work in works:
            assert isinstance(work.batch, JudgedBatch)
            groups.setdefault(work.building, []).append(work.batch)
        made = []
        for building, batches in groups.items():
            partials = tallier.tally(batches[0].topic, pa.concat_tables(b.applied for b in batches), building or None)
            made.append((SINK_KEY, together(batches, partials, building)))
            hit("tally.after")
        return made

    return op.flat_map_batch(name, up, guarded(step))


def together(
    batches: Sequence[JudgedBatch], partials: dict[str, pa.Table], building: frozenset[str] = frozenset()
) -> list[Delta]:
    """The Deltas of batches of one topic; the first carries the partials of all, and since when their events are."""
    times = [b.min_event_time for b in batches if b.min_event_time is not None]
    deltas = [
        Delta(
            b.topic,
            b.partition,
            b.first,
            b.next,
            b.consumed,
            b.applied.num_rows,
            b.duplicate,
            b.late,
            b.dead,
            0,
            b.memory,
            b.memory_max_time,
            b.max_event_time,
            b.schema_ids,
            {},
            building,
            b.min_event_time,
            b.last,
        )
        for b in batches
    ]
    deltas[0].partials = partials
    deltas[0].partials_from = min(times, default=None)
    return deltas


def branch(flow: Dataflow, job: Job, topic: str) -> KeyedStream[list[Delta]]:
    """One topic's way from its partitions to the sink's door."""
    raw = op.input(f"{topic}_source", flow, TopicSource(job, topic))
    decoded = decode(f"{topic}_decode", raw, job, topic)
    judged = judge(f"{topic}_judge", decoded, job, topic)
    return tally(f"{topic}_tally", judged, job)
