"""Produce: the events of a file onto a topic, all of them or, when a line is invalid, none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import pyarrow as pa

from tallystream.settings import Settings
from tallystream.topics.client import ensure_topics
from tallystream.topics.contracts import contract
from tallystream.topics.encode import Encoder
from tallystream.topics.event_files import Tick, read_events
from tallystream.topics.publish import Publisher
from tallystream.topics.registry import open_registry


def produce(
    settings: Settings,
    path: str,
    topic: str,
    checked: Tick = lambda _: None,
    found: Callable[[int], None] = lambda _: None,
    sent: Tick = lambda _: None,
) -> int:
    """Checks the whole file, then publishes its events in its order; returns how many.

    `checked` hears of bytes read, `found` of the number of events, `sent` of events queued.

    Raises:
        InputError: the file is missing, cut or holds invalid lines; nothing was published.
        BrokerError: the broker does not answer (nothing was published) or some were not delivered.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    wanted = contract(topic)
    with tempfile.TemporaryFile(dir=settings.run_dir) as spool:
        events = read_events(path, wanted, spool, checked)
        found(events)
        if not events:
            return 0
        spool.seek(0)
        ensure_topics(settings, [topic])
        encoder = Encoder(wanted, open_registry(settings).id_for(topic))
        publisher = Publisher(settings)
        with pa.ipc.open_stream(spool) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch])
                publisher.send(topic, encoder.keys(table), encoder.values(table))
                sent(len(batch))
        return publisher.close()[topic]
