"""The folder and a Confluent-API server give the same schemas; no version breaks another."""

import copy
import json

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import make_avsc_object

from tallystream.errors import BrokerError, ContractError
from tallystream.settings import TOPICS, load
from tallystream.topics.contracts import SCHEMAS, contract, index
from tallystream.topics.registry import FolderRegistry, HttpRegistry, open_registry
from tests.servers.registry import address, serving


def compatible(reader: dict, writer: dict) -> bool:
    """Whether data of `writer` can be read by `reader`, by the Avro project's own checker."""
    found = ReaderWriterCompatibilityChecker().get_compatibility(make_avsc_object(reader), make_avsc_object(writer))
    return found.compatibility is SchemaCompatibilityType.compatible


def fully_compatible(one: dict, other: dict) -> bool:
    """FULL in the registry's words: old readers read new data, and new readers old data."""
    return compatible(one, other) and compatible(other, one)


def versions(topic: str) -> list[dict]:
    entries = sorted((v["version"], v["file"]) for v in index().values() if v["subject"] == f"{topic}-value")
    return [json.loads((SCHEMAS / file).read_text()) for _, file in entries]


@pytest.mark.parametrize("topic", TOPICS)
def test_all_versions_of_a_contract_are_fully_compatible(topic):
    found = versions(topic)
    assert found
    for i, one in enumerate(found):
        assert all(fully_compatible(one, other) for other in found[i:])


def edited(topic: str, edit) -> dict:
    schema = copy.deepcopy(contract(topic).schema)
    edit(schema["fields"])
    return schema


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f.append({"name": "coupon", "type": "string"}),
        lambda f: f.pop(0),
        lambda f: f.__setitem__(3, {"name": "order_id", "type": "long"}),
        lambda f: f.__setitem__(6, {"name": "total_cents", "type": "double"}),
        lambda f: f[7].update(name="coin"),
        lambda f: f[5]["type"]["items"]["fields"].append({"name": "sku", "type": "string"}),
    ],
    ids=[
        "required field added",
        "field removed",
        "type changed",
        "type widened",
        "field renamed",
        "nested field added",
    ],
)
def test_an_incompatible_edit_fails(edit):
    assert not fully_compatible(contract("orders").schema, edited("orders", edit))


def test_a_field_with_a_default_may_be_added():
    added = {"name": "coupon", "type": ["null", "string"], "default": None}
    assert fully_compatible(contract("orders").schema, edited("orders", lambda f: f.append(added)))


def test_ids_and_versions_are_used_once_and_every_file_is_listed():
    entries = index().values()
    assert len({(v["subject"], v["version"]) for v in entries}) == len(entries)
    files = sorted(v["file"] for v in entries)
    assert files == sorted(str(p.relative_to(SCHEMAS)) for p in SCHEMAS.rglob("*.avsc"))


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
    assert len(server.requests) == len(set(server.requests)) == 6
    assert {t: HttpRegistry(address(server)).id_for(t) for t in TOPICS} == ids


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
