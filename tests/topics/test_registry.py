"""The folder and a Confluent-API server give the same schemas; no version breaks another."""

import base64
import copy
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pyarrow as pa
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import make_avsc_object

from tallystream.errors import BrokerError, ContractError
from tallystream.settings import TOPICS
from tallystream.topics.contracts import SCHEMAS, contract, index
from tallystream.topics.encode import Encoder
from tallystream.topics.registry import FolderRegistry, HttpRegistry, open_registry, without_docs


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


def test_the_folder_knows_its_ids_and_no_others(settings):
    registry = open_registry(settings)
    assert isinstance(registry, FolderRegistry)
    for topic in TOPICS:
        assert registry.schema(registry.id_for(topic)) == contract(topic).schema
        assert registry.subjects(registry.id_for(topic)) == {f"{topic}-value"}
    with pytest.raises(ContractError, match="999"):
        registry.schema(999)


class Server(ThreadingHTTPServer):
    """The part of Confluent's API that we use, with basic authentication."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas: dict[int, tuple[str, str]] = {}
        self.requests: list[str] = []
        self.refuse = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _known(self) -> bool:
        self.server.requests.append(f"{self.command} {self.path}")
        wanted = "Basic " + base64.b64encode(b"me:p@ss word").decode()
        if self.headers.get("Authorization") == wanted:
            return True
        self._answer(401, {"error_code": 401, "message": "Unauthorized"})
        return False

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._known():
            return
        if self.server.refuse:
            self._answer(409, {"error_code": 409, "message": "incompatible with version 3"})
            return
        subject = self.path.split("/")[2]
        for number, entry in self.server.schemas.items():
            if entry == (subject, body["schema"]):
                self._answer(200, {"id": number})
                return
        number = 100_001 + len(self.server.schemas)
        self.server.schemas[number] = (subject, body["schema"])
        self._answer(200, {"id": number})

    def do_GET(self):
        if not self._known():
            return
        parts = self.path.strip("/").split("/")
        if parts[0] == "subjects":
            newest = [(n, schema) for n, (subject, schema) in self.server.schemas.items() if subject == parts[1]][-1:]
            for number, schema in newest:
                self._answer(200, {"id": number, "schema": schema})
            if not newest:
                self._answer(404, {"error_code": 40401, "message": "Subject not found"})
            return
        entry = self.server.schemas.get(int(parts[2]))
        if entry is None:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        elif parts[3:] == ["versions"]:
            self._answer(200, [{"subject": entry[0], "version": 1}])
        else:
            self._answer(200, {"schema": entry[1]})

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def address(server: Server, user: str = "me:p%40ss%20word@") -> str:
    return f"http://{user}127.0.0.1:{server.server_port}/"


def test_a_server_registers_what_is_missing_and_answers_are_kept(server, settings):
    registry = open_registry(settings.model_copy(update={"schema_registry_url": address(server)}))
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
    with pytest.raises(httpx.HTTPError):
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
    with pytest.raises(httpx.HTTPError) as hidden:
        registry.schema(1)
    assert "wrong" not in str(hidden.value)


def test_events_are_produced_under_the_id_of_the_server(server, tally, messages, monkeypatch):
    monkeypatch.setenv("TALLY_SCHEMA_REGISTRY_URL", address(server))
    assert tally("generate", "--events", "200", "--seed", "1")[0] == 0
    heads = {value[:5] for topic in TOPICS for rows in messages(topic).values() for _, value in rows}
    assert heads == {b"\0" + number.to_bytes(4, "big") for number in server.schemas}
