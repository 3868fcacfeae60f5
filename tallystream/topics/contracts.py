"""The contracts of the topics: Avro on the wire, Arrow in memory, SQL in the views."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tallystream.errors import ContractError
from tallystream.settings import PROJECT

SCHEMAS = PROJECT / "schemas"
KEYS = {"orders": "order_id", "clicks": "user_id"}
ARROW = {"string": pa.string(), "long": pa.int64(), "int": pa.int32(), "boolean": pa.bool_(), "double": pa.float64()}


@dataclass(frozen=True)
class Contract:
    """What a topic promises: the newest schema in `schemas/`, and its reading in Arrow.

    `key` is the field whose text is the Kafka message key. `schema` is the parsed Avro record.
    """

    topic: str
    key: str
    schema_id: int
    schema: dict[str, Any]
    arrow: pa.Schema

    @property
    def docs(self) -> dict[str, str]:
        """Field -> what it is, in the schema's words."""
        return {f["name"]: f.get("doc", "") for f in self.schema["fields"]}

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that may not be null."""
        return tuple(f.name for f in self.arrow if not f.nullable)


def arrow_type(avro: Any) -> tuple[pa.DataType, bool]:
    """The Arrow type of an Avro type, and whether null is allowed.

    Raises:
        ContractError: the contracts use no such type.
    """
    if isinstance(avro, list):
        kinds = [kind for kind in avro if kind != "null"]
        if len(kinds) != 1:
            raise ContractError(f"a union of {avro} has no column type; use one type and null")
        return arrow_type(kinds[0])[0], len(kinds) < len(avro)
    if isinstance(avro, dict):
        if avro.get("logicalType") == "timestamp-micros":
            return pa.timestamp("us"), False
        if avro["type"] == "array":
            return pa.list_(arrow_type(avro["items"])[0]), False
        if avro["type"] == "record":
            return pa.struct([pa.field(f["name"], arrow_type(f["type"])[0]) for f in avro["fields"]]), False
        return arrow_type(avro["type"])
    if avro in ARROW:
        return ARROW[avro], False
    raise ContractError(f"the Avro type {avro} has no column type here")


def index(folder: Path = SCHEMAS) -> dict[int, dict[str, Any]]:
    """The fixed ids: id -> {"subject", "version", "file"}."""
    return {int(k): v for k, v in json.loads((folder / "index.json").read_text())["schemas"].items()}


@cache
def contract(topic: str, folder: Path = SCHEMAS) -> Contract:
    """The newest contract of a topic.

    Raises:
        ContractError: no schema of the topic is in the folder.
    """
    versions = [(v["version"], i, v["file"]) for i, v in index(folder).items() if v["subject"] == f"{topic}-value"]
    if not versions:
        raise ContractError(f"no schema of topic {topic} in {folder.name}/index.json")
    _, schema_id, file = max(versions)
    schema = json.loads((folder / file).read_text())
    fields = [pa.field(f["name"], *arrow_type(f["type"])) for f in schema["fields"]]
    return Contract(topic, KEYS[topic], schema_id, schema, pa.schema(fields))
