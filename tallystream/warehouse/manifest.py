"""What a snapshot says of itself: its manifest, written last, so that only a whole snapshot has one."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tallystream.errors import UsageError, WarehouseError
from tallystream.store.objects import MissingError, Store
from tallystream.store.seal import VARIABLE, Key

FORMAT = 1
FOLDER = "snapshots"
MANIFEST = "manifest.json"
NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}")


class DamagedError(WarehouseError):
    """A snapshot is not what its manifest says; it is never restored."""


class SealedError(WarehouseError):
    """A snapshot is sealed with a key that is not here; it may be whole."""


@dataclass(frozen=True, slots=True)
class File:
    """One object of a snapshot, as it lies in the store: bytes and sha256 after sealing."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table: how many rows, and the sum of DuckDB's hashes of them (order does not matter)."""

    schema: str
    name: str
    rows: int
    hash: str


@dataclass(frozen=True)
class Manifest:
    """All that is said about a snapshot. Times are ISO 8601 UTC with Z; `key_id` is None when not sealed."""

    name: str
    taken_at: str
    tallystream: str
    duckdb: str
    schema_version: int
    last_commit: dict[str, Any] | None
    offsets: list[dict[str, Any]]
    topics: dict[str, str | None]
    views: list[dict[str, Any]]
    key_id: str | None
    tables: list[Table]
    files: list[File]
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes in the store, without the manifest."""
        return sum(f.size for f in self.files)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(t.rows for t in self.tables)

    def encode(self, key: Key | None) -> bytes:
        """JSON with a checksum over the rest: signed by the key when there is one."""
        body = {
            **{k: v for k, v in vars(self).items() if k not in ("tables", "files")},
            "tables": [{"schema": t.schema, "name": t.name, "rows": t.rows, "hash": t.hash} for t in self.tables],
            "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.files],
        }
        return json.dumps({**body, "checksum": _checksum(body, key)}, indent=1).encode()


def _checksum(body: dict[str, Any], key: Key | None) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return key.sign(text) if key is not None else hashlib.sha256(text).hexdigest()


def decode(name: str, data: bytes, key: Key | None) -> Manifest:
    """A manifest from its bytes.

    Raises:
        DamagedError: torn, changed, or another snapshot's.
        SealedError: sealed with a key that is not `key`.
        WarehouseError: written by a newer Tallystream.
    """
    try:
        body = json.loads(data)
        checksum, number, key_id = body.pop("checksum"), body["format"], body["key_id"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"snapshot {name}: its manifest is torn") from None
    if number != FORMAT:
        raise WarehouseError(f"snapshot {name} has format {number}, this Tallystream knows {FORMAT}: use a newer one")
    if key_id is not None and (key is None or key.id != key_id):
        have = f"{VARIABLE} is not set" if key is None else f"{VARIABLE} is key {key.id}"
        raise SealedError(f"snapshot {name} is sealed with key {key_id}, {have}; set the key it was taken with")
    if checksum != _checksum(body, key if key_id is not None else None):
        raise DamagedError(f"snapshot {name}: its manifest was changed after it was written")
    if body.get("name") != name:
        raise DamagedError(f"snapshot {name}: its manifest is that of {body.get('name')}")
    tables, files = [Table(**t) for t in body.pop("tables")], [File(**f) for f in body.pop("files")]
    return Manifest(tables=tables, files=files, **body)


@dataclass(frozen=True)
class Found:
    """A snapshot as it lies in the store: its manifest, or what is wrong with it."""

    name: str
    sizes: dict[str, int] = field(repr=False)
    manifest: Manifest | None
    problem: WarehouseError | None

    @property
    def good(self) -> bool:
        """Whole as far as can be told without reading its files."""
        return self.problem is None

    @property
    def taken_at(self) -> datetime:
        """When it was taken: its name begins with it (UTC, naive)."""
        return datetime.strptime(self.name.split("-")[0], "%Y%m%dT%H%M%S.%fZ")


def new_name(now: datetime) -> str:
    """A name that sorts by time and that no other snapshot has; `now` is UTC."""
    return f"{now:%Y%m%dT%H%M%S.%f}Z-{secrets.token_hex(3)}"


def path_of(name: str, file: str) -> str:
    """Where a file of a snapshot lies in the store."""
    return f"{FOLDER}/{name}/{file}"


def catalog(store: Store, key: Key | None) -> list[Found]:
    """All snapshots, whole or not, oldest first; looks at manifests, names and sizes, reads no data."""
    by_name: dict[str, dict[str, int]] = {}
    for entry in store.list(FOLDER):
        _, name, *rest = entry.path.split("/")
        if NAME.fullmatch(name) and rest:
            by_name.setdefault(name, {})["/".join(rest)] = entry.size
    return [_look(store, key, name, sizes) for name, sizes in sorted(by_name.items())]


def _look(store: Store, key: Key | None, name: str, sizes: dict[str, int]) -> Found:
    try:
        try:
            manifest = decode(name, store.get(path_of(name, MANIFEST)), key)
        except MissingError:
            raise DamagedError(f"snapshot {name} is half-written: it has no manifest") from None
        for file in manifest.files:
            if file.path not in sizes:
                raise DamagedError(f"snapshot {name}: the file {file.path} is missing")
            if sizes[file.path] != file.size:
                raise DamagedError(f"snapshot {name}: {file.path} has {sizes[file.path]} bytes, not {file.size}")
    except WarehouseError as error:
        return Found(name, sizes, None, error)
    return Found(name, sizes, manifest, None)


def expire(store: Store, keep_last: int, keep_days: float, now: datetime, key: Key | None = None) -> list[str]:
    """Removes snapshots that are neither among the newest `keep_last` good ones nor younger than `keep_days`.

    Never the newest good one. Half-written and damaged ones go by age alone, and only when a newer good one
    exists: until then they may be all that a person could still salvage. Sealed ones that `key` does not
    open count as good. The manifest goes first: what is left of an expiry cut short is half-written,
    never a snapshot that looks whole. Returns the names removed, oldest first; `now` is UTC, naive.

    Raises:
        UsageError: keep_last is below 1 or keep_days below 0; nothing was removed.
    """
    if keep_last < 1 or keep_days < 0:
        raise UsageError(f"keep at least 1 snapshot and 0 days, not {keep_last} and {keep_days:g}; nothing was removed")
    found = catalog(store, key)
    good = [f.name for f in found if f.good or isinstance(f.problem, SealedError)]
    kept = set(good[-keep_last:])
    before = now - timedelta(days=keep_days)
    gone = [f for f in found if good and f.name < good[-1] and f.name not in kept and f.taken_at < before]
    for f in gone:
        store.delete(path_of(f.name, file) for file in _manifest_first(f.sizes))
    return [f.name for f in gone]


def _manifest_first(files: Iterable[str]) -> list[str]:
    return sorted(files, key=lambda file: (file != MANIFEST, file))
