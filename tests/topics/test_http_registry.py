"""Whatever a registry answers for an id is a dead letter; whatever says nothing of the id is waited for."""

from __future__ import annotations

import json
import threading
import time

import pytest
from registries import HTML, Answer, serving

from tallystream.errors import BrokerError, ContractError, StoppedError
from tallystream.topics import http_registry
from tallystream.topics.contracts import contract
from tallystream.topics.http_registry import HttpRegistry

GOOD = json.dumps({"schema": json.dumps(contract("clicks").schema)}).encode()


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(http_registry, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(http_registry, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(http_registry, "STEP", 0.01)


def schema(text: object, **more: object) -> Answer:
    return 200, json.dumps({"schema": text, **more}).encode()


OF_THE_ID = {
    "unknown": ((404, b'{"error_code": 40403, "message": "Schema not found"}'), "no schema with id 7"),
    "protobuf": (schema('syntax = "proto3";', schemaType="PROTOBUF"), "is PROTOBUF, not Avro"),
    "json schema": (schema('{"type": "object"}', schemaType="JSON"), "is JSON, not Avro"),
    "no json": (schema("record Click {"), "is no JSON"),
    "nested": (schema("[" * 100_000), "is no JSON"),
    "references": (schema('"a.B"', references=[{"name": "a.B", "subject": "b", "version": 1}]), "refers to other"),
    "huge": ((200, b'{"schema": "' + b" " * (5 << 20) + b'"}'), "more than 4194304 bytes"),
    "forbidden": ((403, b'{"error_code": 40301}'), "answers 403"),
    "bad request": ((400, b""), "answers 400"),
    "a 404 of another kind": ((404, b'{"error_code": 404}'), "answers 404"),
    "always a fault": ((500, b'{"error_code": 50001}'), "answers 500"),
    "always HTML": ((200, HTML), "with no schema"),
    "no schema": ((200, b'{"id": 7}'), "with no schema"),
    "a list": ((200, b"[1]"), "with no schema"),
    "a number for a schema": (schema(5), "with no schema"),
    "bytes": ((200, b"\xff\xfe\0"), "with no schema"),
}


@pytest.mark.parametrize("case", OF_THE_ID)
def test_what_a_registry_says_of_an_id_is_final(case):
    answer, told = OF_THE_ID[case]
    answers = {"/schemas/ids/7": answer, "/subjects": (200, b'["clicks-value"]')}
    with serving(answers) as server, pytest.raises(ContractError, match=told):
        HttpRegistry(server.url, patience=30).schema(7)


def test_an_id_that_no_registry_can_read_is_not_asked_for():
    with serving({}) as server:
        with pytest.raises(ContractError, match="4294967295 is no id"):
            HttpRegistry(server.url).schema(2**32 - 1)
        assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "subjects"),
    [((404, HTML), (404, HTML)), ((200, HTML), (200, HTML)), ((503, b""), (503, b"")), ((401, b""), (200, b"[]")),
     ((429, b""), (200, b"[]")), ((302, b""), (302, b""))],
    ids=["a wrong URL", "a login page", "down", "a wrong password", "too many", "moved"],
)  # fmt: skip
def test_what_says_nothing_of_the_id_is_an_outage(answer, subjects):
    """Good data must not become dead letters for it."""
    with serving({"/schemas/ids/7": answer, "/subjects": subjects}) as server:
        for patience in (0.0, 0.1):
            with pytest.raises(BrokerError, match=r"does not answer.*no message was called dead"):
                HttpRegistry(server.url, patience=patience).schema(7)


def test_an_outage_is_waited_for_and_said_once(capsys):
    with serving({}) as server:
        port = server.server_port
    up_at = time.monotonic() + 0.3
    registry = HttpRegistry(f"http://127.0.0.1:{port}", patience=30)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(registry.schema(7)))
    waiting.start()
    time.sleep(up_at - time.monotonic())
    with serving({"/schemas/ids/7": (200, GOOD)}, port):
        waiting.join(20)
    assert found == [contract("clicks").schema]
    assert capsys.readouterr().err.count("waiting for it") == 1


def test_a_fault_that_passes_is_no_answer_of_the_id():
    answers = iter([(500, b""), (200, HTML), (200, GOOD)])
    with serving({"/schemas/ids/7": lambda: next(answers), "/subjects": (200, b"[]")}) as server:
        assert HttpRegistry(server.url).schema(7) == contract("clicks").schema


def test_an_outage_ends_with_a_stop():
    asked = iter([False, False, True])
    with serving({}) as server, pytest.raises(StoppedError):
        HttpRegistry(server.url, patience=300, stopping=lambda: next(asked)).schema(7)


def test_an_answer_without_end_is_an_outage(monkeypatch):
    monkeypatch.setattr(http_registry, "TIMEOUT", 0.2)

    def drip() -> Answer:
        time.sleep(0.5)
        return 200, GOOD

    with serving({"/schemas/ids/7": drip}) as server, pytest.raises(BrokerError, match="does not answer"):
        HttpRegistry(server.url).schema(7)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((200, b'[{"subject": "a", "version": 1}, {"version": 2}, 5]'), {"a"}),
        ((404, HTML), set()),
        ((200, b"{}"), set()),
    ],
)
def test_subjects_are_those_that_it_can_tell(answer, told):
    with serving({"/schemas/ids/7/versions": answer, "/subjects": (200, b"[]")}) as server:
        assert HttpRegistry(server.url).subjects(7) == told
