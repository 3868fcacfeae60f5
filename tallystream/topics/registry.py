"""Schemas by id: a Confluent-API registry, or the folder `schemas/` itself with its fixed ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import httpx

from tallystream.errors import BrokerError, ContractError
from tallystream.settings import Settings
from tallystream.topics.contracts import SCHEMAS, contract, index

TIMEOUT = 10.0


class Registry(Protocol):
    """What decoding and producing need of a registry."""

    def schema(self, schema_id: int) -> dict[str, Any]:
        """The parsed Avro schema; ContractError when there is none with this id."""

    def id_for(self, topic: str) -> int:
        """The id under which the topic's newest contract is registered."""

    def subjects(self, schema_id: int) -> frozenset[str]:
        """The subjects that use the schema."""


class FolderRegistry:
    """The folder `schemas/`: ids are fixed in its index."""

    def __init__(self, folder: Path = SCHEMAS):
        self._folder = folder
        self._index = index(folder)

    def schema(self, schema_id: int) -> dict[str, Any]:
        """The parsed Avro schema; ContractError for an unknown id."""
        if schema_id not in self._index:
            raise ContractError(f"no schema with id {schema_id}")
        parsed: dict[str, Any] = json.loads((self._folder / self._index[schema_id]["file"]).read_text())
        return parsed

    def id_for(self, topic: str) -> int:
        """The id of the newest version."""
        return contract(topic, self._folder).schema_id

    def subjects(self, schema_id: int) -> frozenset[str]:
        """The one subject of the schema."""
        return frozenset([self._index[schema_id]["subject"]]) if schema_id in self._index else frozenset()


class HttpRegistry:
    """Any registry with Confluent's API; answers are cached, for a schema never changes under its id."""

    def __init__(self, url: str, client: httpx.Client | None = None):
        parsed = httpx.URL(url)
        # Credentials in the URL go into the header and out of every message.
        auth = (parsed.username, parsed.password) if parsed.username else None
        self._url = str(parsed.copy_with(username=None, password=None)).rstrip("/")
        self._client = client or httpx.Client(timeout=TIMEOUT, auth=auth)
        self._schemas: dict[int, dict[str, Any]] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[int, frozenset[str]] = {}

    def schema(self, schema_id: int) -> dict[str, Any]:
        """The parsed Avro schema.

        Raises:
            ContractError: the registry has no such id.
            httpx.HTTPError: it does not answer; good data must not become dead letters for that.
        """
        if schema_id not in self._schemas:
            answer = self._client.get(f"{self._url}/schemas/ids/{schema_id}")
            if answer.status_code == 404:
                raise ContractError(f"the registry has no schema with id {schema_id}")
            answer.raise_for_status()
            self._schemas[schema_id] = json.loads(answer.json()["schema"])
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
            except (httpx.HTTPError, ValueError, KeyError) as error:
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
        """The subjects that use the schema; empty when the registry cannot tell."""
        if schema_id not in self._subjects:
            answer = self._client.get(f"{self._url}/schemas/ids/{schema_id}/versions")
            rows = answer.json() if answer.status_code == 200 else []
            self._subjects[schema_id] = frozenset(row["subject"] for row in rows)
        return self._subjects[schema_id]


def without_docs(schema: Any) -> Any:
    """An Avro schema without its descriptions: what is left says how data is read."""
    if isinstance(schema, dict):
        return {name: without_docs(part) for name, part in schema.items() if name != "doc"}
    return [without_docs(part) for part in schema] if isinstance(schema, list) else schema


def open_registry(settings: Settings) -> Registry:
    """The registry that the settings name."""
    return HttpRegistry(settings.schema_registry_url) if settings.schema_registry_url else FolderRegistry()
