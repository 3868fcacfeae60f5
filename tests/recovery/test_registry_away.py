"""A schema registry that is away stops nothing for good, and a message that names an odd schema neither."""

from __future__ import annotations

import json
import signal
import socket

from tallystream.settings import TOPICS
from tallystream.topics.publish import send_all
from tallystream.topics.registry import FolderRegistry
from tallystream.warehouse.control import open_prepared
from tallystream.warehouse.live import live_address
from tallystream.warehouse.read import open_reader
from tests.servers.broker import until
from tests.topics.registries import serving

from .killed import compare_all, stream
from .shop import Shop, publish

ODD = {
    50: {"schema": 'syntax = "proto3";', "schemaType": "PROTOBUF"},
    51: {"schema": "record Click {"},
    52: {"schema": '{"type": "object"}', "schemaType": "JSON"},
    53: {"schema": '{"type": "record", "name": "Click"}'},
}


def answers() -> dict[str, tuple[int, bytes]]:
    """Those of a registry that has our schemas and the odd ones."""
    folder = FolderRegistry()
    found: dict[str, object] = {"/subjects": [f"{t}-value" for t in TOPICS]}
    for topic in TOPICS:
        number = folder.id_for(topic)
        found[f"/schemas/ids/{number}"] = {"schema": json.dumps(folder.schema(number))}
        found[f"/schemas/ids/{number}/versions"] = [{"subject": f"{topic}-value", "version": 1}]
    found |= {f"/schemas/ids/{number}": answer for number, answer in ODD.items()}
    return {path: (200, json.dumps(answer).encode()) for path, answer in found.items()}


def test_an_outage_is_waited_for_and_odd_schemas_are_dead_letters(fresh_topics, monkeypatch):
    settings = fresh_topics(2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("TALLY_SCHEMA_REGISTRY_URL", f"http://127.0.0.1:{port}")
    publish(settings, Shop(41), 200)
    odd = [(b"u1", b"\0" + number.to_bytes(4, "big") + b"\2a") for number in (*ODD, 54, 2**32 - 1)]
    send_all(settings, "clicks", odd)
    with stream() as running:
        until_waiting(running)
        running.send_signal(signal.SIGTERM)
        assert running.wait(40) == 0
        assert "Traceback" not in running.stderr.read()
    with open_prepared(settings) as con:
        assert con.execute("SELECT sum(consumed)::BIGINT FROM ledger.offsets").fetchall() == [(0,)]
    with stream() as running:
        until_waiting(running)
        with serving(answers(), port):
            until(lambda: live_address(settings) is not None, "the stream serves nothing")
            until(lambda: consumed(settings) == 200 + len(odd), "not all was read")
        # What it has learnt it needs no registry for.
        publish(settings, Shop(42), 100)
        until(lambda: consumed(settings) == 300 + len(odd), "it does not go on")
        running.send_signal(signal.SIGTERM)
        assert running.wait(40) == 0
    compare_all(settings)
    with open_prepared(settings) as con:
        reasons = con.execute("SELECT detail FROM main.dead_letters WHERE reason LIKE '%schema' ORDER BY 1").fetchall()
    told = " ".join(row[0] for row in reasons)
    assert all(part in told for part in ("PROTOBUF", "no JSON", "unreadable", "answers 404", "no id of a registry")), (
        told
    )


def until_waiting(running) -> None:
    """Until the stream says that it waits."""
    for line in running.stderr:
        if "waiting for it" in line:
            return
    raise AssertionError("the stream ended")


def consumed(settings) -> int:
    with open_reader(settings) as reader:
        return reader.rows("SELECT coalesce(sum(consumed), 0)::BIGINT FROM ledger.offsets")[2][0][0]
