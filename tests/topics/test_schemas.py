"""The contracts are FULL compatible: every version reads, and is read by, every other version of its subject."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from itertools import permutations
from typing import Any

import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from tallystream.settings import PROJECT

FOLDER = PROJECT / "schemas"
INDEX = json.loads((FOLDER / "index.json").read_text())["schemas"]


def subjects() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for entry in sorted(INDEX.values(), key=lambda e: e["version"]):
        found[entry["subject"]].append(json.loads((FOLDER / entry["file"]).read_text()))
    return found


def incompatible(schemas: list[Any]) -> list[str]:
    """What a reader of one version cannot read of another."""
    parsed = [parse(json.dumps(s)) for s in schemas]
    check = ReaderWriterCompatibilityChecker().get_compatibility
    results = [check(reader, writer) for reader, writer in permutations(parsed, 2)]
    return [m for r in results if r.compatibility is not SchemaCompatibilityType.compatible for m in r.messages]


def test_every_version_reads_every_other():
    assert {"orders-value", "clicks-value"} <= set(subjects())
    for subject, schemas in subjects().items():
        assert incompatible(schemas) == [], subject


def test_every_file_is_in_the_index_and_versions_count_up():
    assert sorted(e["file"] for e in INDEX.values()) == sorted(
        str(f.relative_to(FOLDER)) for f in FOLDER.glob("*/*.avsc")
    )
    for subject in subjects():
        versions = sorted(e["version"] for e in INDEX.values() if e["subject"] == subject)
        assert versions == list(range(1, len(versions) + 1))


def drop_a_field(fields):
    fields.pop(0)


def add_without_default(fields):
    fields.append({"name": "added", "type": "string"})


def change_a_type(fields):
    fields[0]["type"] = "long"


def rename(fields):
    fields[0]["name"] = "id"


def widen(fields):
    """Its reader reads what was, and no reader of what was reads it."""
    next(f for f in fields if "long" in (f["type"], *f["type"]))["type"] = "double"


@pytest.mark.parametrize("subject", sorted(subjects()))
@pytest.mark.parametrize("edit", [drop_a_field, add_without_default, change_a_type, rename, widen])
def test_an_incompatible_edit_fails(subject, edit):
    newest = subjects()[subject][-1]
    edited = copy.deepcopy(newest)
    edit(edited["fields"])
    assert incompatible([newest, edited]) != []


def test_an_edit_inside_the_items_fails_too():
    newest = subjects()["orders-value"][-1]
    edited = copy.deepcopy(newest)
    add_without_default(next(f for f in edited["fields"] if f["name"] == "items")["type"]["items"]["fields"])
    assert incompatible([newest, edited]) != []


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_a_field_with_a_default_may_come_and_go(subject):
    newest = subjects()[subject][-1]
    edited = copy.deepcopy(newest)
    edited["fields"].append({"name": "added", "type": ["null", "string"], "default": None})
    assert incompatible([newest, edited]) == []
