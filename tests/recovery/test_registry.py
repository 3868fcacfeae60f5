"""A stream whose schemas are in a registry of its own: newer writers, writers that do not fit, and a registry that is away."""

from __future__ import annotations

import json
from typing import Any

import fastavro

from tallystream.topics.publish import send_all
from tallystream.warehouse.control import open_prepared
from tests.oracle.books import compare, keep
from tests.oracle.judging import KEYS
from tests.recovery.killed import stream, tally
from tests.recovery.test_hostile_bytes import GOOD
from tests.servers.registry import Server, address, serving
from tests.topics.messages import changed, wire

NAN = float("nan")


def newer(topic: str) -> Any:
    """The contract with fields that it does not name, before its own and inside the items."""

    def grow(fields: list[dict[str, Any]]) -> None:
        fields.insert(0, {"name": "score", "type": "double", "default": 0.0})
        if topic == "orders":
            item = next(f for f in fields if f["name"] == "items")["type"]["items"]
            item["fields"].insert(1, {"name": "gift", "type": ["null", "boolean"], "default": None})

    return changed(topic, grow)


def unfit(topic: str) -> Any:
    """Cents as a floating number."""
    name = {"orders": "total_cents", "clicks": "price_cents"}[topic]
    return changed(topic, lambda fields: next(f for f in fields if f["name"] == name).update(type="double"))


def publish(settings, server: Server, topic: str, n: int) -> dict[str, int]:
    """`n` events under each of three schemas, and one under an id of the folder, which this registry does not have."""
    event = GOOD[topic]
    amount = {"orders": "total_cents", "clicks": "price_cents"}[topic]
    ids = {name: server.register(f"{topic}-value", s) for name, s in (("newer", newer(topic)), ("unfit", unfit(topic)))}
    messages = []
    for i in range(n):
        changes: dict[str, Any] = {"event_id": f"{topic} {i}", "score": NAN}
        if topic == "orders":
            changes["items"] = [item | {"gift": True} for item in event["items"]]
        messages.append(wire(topic, event | changes, newer(topic), ids["newer"]))
        messages.append(wire(topic, event | {amount: NAN}, unfit(topic), ids["unfit"]))
    messages.append(wire(topic, event))
    send_all(settings, topic, [(event[KEYS[topic]].encode(), m) for m in messages])
    return ids


def test_a_stream_with_a_registry(fresh_topics, monkeypatch):
    settings = fresh_topics(2)
    with serving() as server:
        port = server.server_port
        monkeypatch.setenv("TALLY_SCHEMA_REGISTRY_URL", address(server))
        assert tally("generate", "--events", "400", "--seed", "1").returncode == 0
        contracts = set(server.schemas)
        assert len(contracts) == 2
        ids = {topic: publish(settings, server, topic, 20) for topic in ("orders", "clicks")}
        ran = tally("run", "--until-end", "--workers", "2")
        assert ran.returncode == 0, ran.stderr
        schemas = dict(server.schemas)
        assert tally("generate", "--events", "100", "--seed", "2").returncode == 0
    fit = contracts | {i["newer"] for i in ids.values()}
    known = {i: fastavro.parse_schema(json.loads(text)) for i, (_, text) in schemas.items() if i in fit}
    with stream("--until-end") as waiting:
        told = [next(line for line in waiting.stderr if "registry" in line)]
        assert "does not answer" in told[0]
        with serving(port) as server:
            server.schemas.update(schemas)
            told += waiting.stderr
            assert waiting.wait(60) == 0, told
    assert "p%40ss" not in "".join(told) and "p@ss" not in "".join(told)
    with open_prepared(settings) as con:
        compare(con, keep(settings, known))
        reasons = con.execute(
            "SELECT topic, reason, count(*) FROM main.dead_letters GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        used = con.execute("SELECT DISTINCT unnest(schema_ids) FROM ledger.commits").fetchall()
    assert reasons == [
        (t, r, n) for t in ("clicks", "orders") for r, n in (("incompatible_schema", 20), ("unknown_schema", 1))
    ]
    assert {i for (i,) in used} == set(schemas)
