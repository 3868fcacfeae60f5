"""The folder and a Confluent-API server give the same schemas."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from tallystream.errors import BrokerError, ContractError
from tallystream.settings import TOPICS, load
from tallystream.topics.contracts import contract
from tallystream.topics.encode import Encoder
from tallystream.topics.http_registry import HttpRegistry, without_docs
from tallystream.topics.registry import FolderRegistry, open_registry
from tests.servers.registry import address, serving


def test_the_folder_knows_its_ids_and_no_others(home):
    registry = open_registry(load())
    assert isinstance(registry, FolderRegistry)
    for topic in TOPICS:
        assert registry.schema(registry.id_for(topic)) == contract(topic).schema
        assert registry.subjects(registry.id_for(topic)) == {f"{topic}-value"}
    with pytest.raises(ContractError, match="999"):
        registry.schema(999)


@pytest.fixture
def server():
    with serving() as made:
        yield made


def test_a_server_registers_what_is_missing_and_answers_are_kept(server, home):
    registry = open_registry(load().model_copy(update={"schema_registry_url": address(server)}))
    assert isinstance(registry, HttpRegistry)
    ids = {topic: registry.id_for(topic) for topic in TOPICS}
    assert len(set(ids.values())) == 2
    for topic, number in ids.items():
        assert registry.id_for(topic) == number
        assert registry.schema(number) == registry.schema(number) == contract(topic).schema
        assert registry.subjects(number) == registry.subjects(number) == {f"{topic}-value"}
    assert len(server.requests) == len(set(server.requests)) == 8
    assert {t: HttpRegistry(address(server)).id_for(t) for t in TOPICS} == ids


def test_a_better_description_is_no_new_version(server):
    """What is said of the fields changes neither ids nor bytes; another field does."""
    plain = without_docs(contract("orders").schema)
    assert "doc" not in json.dumps(plain) and "doc" in json.dumps(contract("orders").schema)
    server.schemas = {77: ("orders-value", json.dumps(plain)), 78: ("clicks-value", json.dumps({**plain, "name": "X"}))}
    registry = HttpRegistry(address(server))
    assert registry.id_for("orders") == 77
    assert registry.id_for("clicks") > 78
    events = empty_row("orders")
    bare = replace(contract("orders"), schema=plain)
    (one,), (other,) = (Encoder(c, 1).values(events) for c in (contract("orders"), bare))
    assert one == other


def empty_row(topic: str) -> pa.Table:
    """One event with the least of every type."""
    least = {"string": "", "int64": 0, "timestamp[us]": 0}
    columns = [pa.array([least.get(str(f.type), [])], f.type) for f in contract(topic).arrow]
    return pa.Table.from_arrays(columns, schema=contract(topic).arrow)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_field_is_described_and_keeps_its_id(topic):
    assert all(contract(topic).docs.values()) and list(contract(topic).docs) == contract(topic).arrow.names
    assert FolderRegistry().id_for(topic) == {"orders": 1, "clicks": 2}[topic]


def test_an_unknown_id_is_a_contract_error_and_a_silent_server_is_not(server):
    with pytest.raises(ContractError, match="7"):
        HttpRegistry(address(server)).schema(7)
    # Good data must not become dead letters while the registry is away.
    url = address(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(BrokerError, match="no message was called dead"):
        HttpRegistry(url).schema(7)
    with pytest.raises(BrokerError, match="did not register"):
        HttpRegistry(url).id_for("orders")


def test_what_the_server_refuses_is_said(server):
    server.refuse = True
    with pytest.raises(ContractError, match="incompatible with version 3"):
        HttpRegistry(address(server)).id_for("orders")


@pytest.mark.parametrize("user", ["", "me:wrong@"])
def test_the_password_is_in_no_message(server, user):
    registry = HttpRegistry(address(server, user))
    with pytest.raises(BrokerError) as refused:
        registry.id_for("orders")
    assert "401" in str(refused.value)
    assert "wrong" not in str(refused.value)
    with pytest.raises(BrokerError) as hidden:
        registry.schema(1)
    assert "wrong" not in str(hidden.value)


def test_events_are_produced_under_the_id_of_the_server(server, tally, messages, monkeypatch):
    monkeypatch.setenv("TALLY_SCHEMA_REGISTRY_URL", address(server))
    assert tally("generate", "--events", "200", "--seed", "1")[0] == 0
    heads = {value[:5] for topic in TOPICS for rows in messages(topic).values() for _, value in rows}
    assert heads == {b"\0" + number.to_bytes(4, "big") for number in server.schemas}
