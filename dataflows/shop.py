"""The whole flow on one page: read it first.

    orders ─ source ─ decode ─ judge ─ tally ─┐
                                              ├─ sink: one transaction in DuckDB
    clicks ─ source ─ decode ─ judge ─ tally ─┘

- source   one item is one batch: all messages of one partition for offsets [a, b)
- decode   Avro to Arrow, vectorised; what cannot be read is a dead letter
- judge    dead, late, duplicate or applied, from the partition's log prefix alone
- tally    each view's partial over the accepted events, once for all batches that come together
- sink     offsets, views, judge memory, late and dead rows and the ledger, in ONE transaction

Bytewax's recovery store and windows are not used: the warehouse is the one truth, and a window
closes by event time alone, so that a replay equals the live run.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from dataflows.operators import branch
from dataflows.sink import WarehouseSink
from tallystream.job import Job
from tallystream.warehouse.writer import Writer


def shop(job: Job, writer: Writer | None) -> Dataflow:
    """Orders and clicks, from their partitions into the views; `writer` is open in the first process, None in others."""
    flow = Dataflow("shop")
    orders = branch(flow, job, "orders")
    clicks = branch(flow, job, "clicks")
    op.output("sink", op.merge("deltas", orders, clicks), WarehouseSink(job, writer))
    return flow
