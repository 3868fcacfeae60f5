"""Schemas by id: a Confluent-API registry, or the folder `schemas/` itself with its fixed ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tallystream.errors import ContractError
from tallystream.settings import Settings
from tallystream.topics.contracts import SCHEMAS, contract, index


class Registry(Protocol):
    """What decoding and producing need of a registry."""

    def schema(self, schema_id: int) -> dict[str, Any]:
        """The parsed Avro schema.

        Raises:
            ContractError: there is none with this id, now and for good.
            BrokerError: the registry does not answer; good data must not become dead letters for that.
        """

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


def open_registry(settings: Settings, patience: float = 0.0, stopping: Callable[[], bool] = lambda: False) -> Registry:
    """The registry that the settings name; `patience` and `stopping` as `HttpRegistry` has them."""
    url = settings.schema_registry_url
    if not url:
        return FolderRegistry()
    # Imported here: an HTTP client is a tenth of a second of the start, and most streams have no registry to ask.
    from tallystream.topics.http_registry import HttpRegistry

    return HttpRegistry(url, patience=patience, stopping=stopping)
