"""A registry with Confluent's API: what it answers for good, and what only says that it is away.

A message names any schema id it likes. What the registry then says of that id must end as a dead letter, or the one message
would stop the stream at each start; what says nothing of the id, an outage above all, must be waited for, or good data would
become dead letters.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from tallystream.errors import BrokerError, ContractError, StoppedError
from tallystream.topics.contracts import contract

T = TypeVar("T")
TIMEOUT = 10.0  # seconds for one answer
LARGEST = 4 << 20  # bytes of an answer: a schema of megabytes is none of ours
LAST_ID = 2**31 - 1  # registries read ids as 32-bit numbers, and answer larger ones as if the path were wrong
UNKNOWN = (40401, 40402, 40403)  # error codes: no such subject, version, schema
OURS = (401, 407, 408, 425, 429)  # say something of us, and nothing of the schema
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries, doubled each time
TRIES = 5  # of one id, while the registry answers others
STEP = 0.05  # seconds between two looks whether to stop


class _AwayError(Exception):
    """An answer that says nothing of what was asked for."""


class _OddError(Exception):
    """An answer that is none of a registry; `passing`: it may be another one soon."""

    def __init__(self, told: str, passing: bool):
        super().__init__(told)
        self.passing = passing


class HttpRegistry:
    """Any registry with Confluent's API; answers are cached, for a schema never changes under its id.

    `patience`: seconds that an outage is waited for. `stopping`: asked meanwhile; once true, `StoppedError` is raised.
    """

    def __init__(
        self,
        url: str,
        client: httpx.Client | None = None,
        patience: float = 0.0,
        stopping: Callable[[], bool] = lambda: False,
    ):
        parsed = httpx.URL(url)
        # Credentials in the URL go into the header and out of every message.
        auth = (parsed.username, parsed.password) if parsed.username else None
        self._url = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self._client = client or httpx.Client(timeout=TIMEOUT, auth=auth)
        self._patience = patience
        self._stopping = stopping
        self._schemas: dict[int, Any] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[int, frozenset[str]] = {}

    def schema(self, schema_id: int) -> Any:
        """The parsed Avro schema.

        Raises:
            ContractError: the registry has no such id, or no Avro under it that stands for itself.
            BrokerError: it does not answer, or not as a registry, for longer than the patience.
            StoppedError: asked to stop while waiting.
        """
        if schema_id not in self._schemas:
            if schema_id > LAST_ID:
                raise ContractError(f"{schema_id} is no id of a registry: they end at {LAST_ID}")
            self._schemas[schema_id] = self._ask(
                f"schemas/ids/{schema_id}", lambda status, data: _schema(schema_id, status, data)
            )
        return self._schemas[schema_id]

    def id_for(self, topic: str) -> int:
        """The id of the topic's contract, registered when it is not there yet.

        Raises:
            ContractError: the registry refuses it, for it is incompatible with what it has.
            BrokerError: the registry does not answer, or not as one.
        """
        if topic not in self._ids:
            body = {"schema": json.dumps(contract(topic).schema)}
            try:
                known = self._id_of_newest(topic)
                if known is not None:
                    self._ids[topic] = known
                    return known
                answer = self._client.post(f"{self._url}/subjects/{topic}-value/versions", json=body)
                if answer.status_code in (409, 422):
                    raise ContractError(f"the registry refuses the contract of {topic}: {answer.text[:300]}")
                answer.raise_for_status()
                self._ids[topic] = int(answer.json()["id"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise BrokerError(
                    f"the schema registry at {self._url} did not register the contract of {topic}: {error}"
                ) from None
        return self._ids[topic]

    def _id_of_newest(self, topic: str) -> int | None:
        """The id of the newest version, when it differs from the contract in no more than what is said of its fields.

        A registry takes another description for another schema: each better word would be a new version, and a new id.
        """
        answer = self._client.get(f"{self._url}/subjects/{topic}-value/versions/latest")
        if answer.status_code == 404:
            return None
        found = answer.raise_for_status().json()
        same = without_docs(json.loads(found["schema"])) == without_docs(contract(topic).schema)
        return int(found["id"]) if same else None

    def subjects(self, schema_id: int) -> frozenset[str]:
        """The subjects that use the schema; empty when the registry cannot tell.

        Raises:
            BrokerError, StoppedError: as `schema`.
        """
        if schema_id not in self._subjects:
            try:
                self._subjects[schema_id] = self._ask(f"schemas/ids/{schema_id}/versions", _subjects)
            except ContractError:
                self._subjects[schema_id] = frozenset()
        return self._subjects[schema_id]

    def _ask(self, path: str, read: Callable[[int, bytes], T]) -> T:
        """What `read` makes of the answer (status, body), asked for again while it is none."""
        began, tries = time.monotonic(), 0
        while True:
            try:
                return read(*self._get(path))
            except (httpx.HTTPError, _AwayError, _OddError) as error:
                tries += 1
                if isinstance(error, _OddError) and self._answers_others():
                    if not error.passing or tries >= TRIES:
                        raise ContractError(f"the registry {error} for {path}, and answers otherwise") from None
                elif time.monotonic() - began >= self._patience:
                    waited = f" for {self._patience:.0f} s" if self._patience else ""
                    raise BrokerError(
                        f"the schema registry at {self._url} does not answer{waited}: {_told(error)}; no message was "
                        "called dead for that, and what was committed stands: run again when it is back"
                    ) from None
                if tries == 1 and self._patience:
                    print(
                        f"the schema registry at {self._url} does not answer ({_told(error)}); waiting for it",
                        file=sys.stderr,
                        flush=True,
                    )
                self._pause(min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE))

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body, cut off when it is too large; it may be any bytes that come slowly or without end."""
        deadline = time.monotonic() + TIMEOUT
        found = bytearray()
        with self._client.stream("GET", f"{self._url}/{path}") as answer:
            for chunk in answer.iter_bytes():
                found += chunk
                if len(found) > LARGEST:
                    break
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer does not end")
            if answer.status_code in OURS:
                raise _AwayError(f"it answers {answer.status_code}")
            return answer.status_code, bytes(found)

    def _answers_others(self) -> bool:
        """Whether a registry is there: the URL is right, and it lists its subjects."""
        try:
            status, data = self._get("subjects")
        except (httpx.HTTPError, _AwayError):
            return False
        return status == 200 and data.lstrip()[:1] == b"["

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._stopping():
                raise StoppedError("asked to stop while the schema registry was away; what was committed stands")
            time.sleep(STEP)


def _schema(schema_id: int, status: int, data: bytes) -> Any:
    """The schema in an answer.

    Raises:
        ContractError: a registry says that there is none, or none that can be read.
        _OddError: no registry says this.
    """
    body = _json(data)
    if status == 404 and isinstance(body, dict) and body.get("error_code") in UNKNOWN:
        raise ContractError(f"the registry has no schema with id {schema_id}")
    if status == 200 and len(data) > LARGEST:
        raise ContractError(f"schema {schema_id} has more than {LARGEST} bytes")
    if status != 200 or not isinstance(body, dict) or not isinstance(body.get("schema"), str):
        raise _odd(status)
    kind = str(body.get("schemaType") or "AVRO")
    if kind.upper() != "AVRO":
        raise ContractError(f"schema {schema_id} is {kind[:20]}, not Avro")
    if body.get("references"):
        raise ContractError(f"schema {schema_id} refers to other subjects: register it whole, then redrive")
    parsed = _json(body["schema"].encode(errors="replace"))
    if parsed is None:
        raise ContractError(f"schema {schema_id} is no JSON, so no Avro")
    return parsed


def _subjects(status: int, data: bytes) -> frozenset[str]:
    rows = _json(data)
    if status == 200 and isinstance(rows, list):
        return frozenset(str(row["subject"]) for row in rows if isinstance(row, dict) and "subject" in row)
    if status in (404, 405):
        return frozenset()  # of a registry that does not know the question
    raise _odd(status)


def _odd(status: int) -> _OddError:
    return _OddError(f"answers {status}" if status != 200 else "answers with no schema", status == 200 or status >= 500)


def _json(data: bytes) -> Any:
    """What the bytes say; None when they are no JSON, or nested beyond measure."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def without_docs(schema: Any) -> Any:
    """An Avro schema without its descriptions: what is left says how data is read."""
    if isinstance(schema, dict):
        return {name: without_docs(part) for name, part in schema.items() if name != "doc"}
    return [without_docs(part) for part in schema] if isinstance(schema, list) else schema
