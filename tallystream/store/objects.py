"""The object store behind snapshots and archives: file:// or s3://, one behaviour.

What the callers rely on: a put is all or nothing, `create=True` never replaces an object (the fence of
every manifest), and after a put returns the object survives a crash of this machine (file://: fsync).
"""

from __future__ import annotations

import builtins
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from tallystream.errors import SettingsError, TallyError
from tallystream.settings import Settings

CHUNK = 8 << 20  # bytes in memory of a file on its way
RETRIES = 5  # a wrong endpoint should be told within half a minute, not after obstore's three
RETRY_FOR = timedelta(seconds=30)


class StoreError(TallyError):
    """The object store cannot be reached, refused, or holds something else than it should."""


class MissingError(StoreError):
    """No object of this name."""


class ExistsError(StoreError):
    """An object of this name exists already; it was not replaced."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: its path below the store's root, bytes, and when it was last written (UTC)."""

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's bytes are: their number and their sha256 in hex."""

    size: int
    sha256: str


class Store:
    """Objects below one root. Paths are relative, with slashes, of letters, digits, `-`, `_` and `.`.

    `root` is the folder of a file:// store, else None.
    """

    def __init__(self, inner: LocalStore | S3Store, url: str, root: Path | None):
        self._inner = inner
        self.url = url
        self.root = root

    def put(self, path: str, data: bytes | Path, *, create: bool = False) -> None:
        """Writes an object, whole or not at all; a Path is streamed from the disk.

        Raises:
            ExistsError: `create` and an object of this name exists; it is unchanged.
            StoreError: the store refused or does not answer.
        """
        with self._told(f"{self.url}/{path} was not written"):
            obstore.put(self._inner, path, data, mode="create" if create else "overwrite")
        if self.root is not None:
            _settle(self.root / path, self.root)

    def get(self, path: str) -> bytes:
        """An object's bytes; for small ones.

        Raises:
            MissingError: there is none.
            StoreError: the store refused or does not answer.
        """
        with self._told(f"{self.url}/{path} was not read"):
            return bytes(obstore.get(self._inner, path).bytes())

    def fetch(self, path: str, target: Path) -> Digest:
        """Copies an object into a file, and says what came; the caller compares.

        Raises:
            MissingError: there is none.
            StoreError: the store refused or does not answer.
        """
        digest, size = hashlib.sha256(), 0
        with self._told(f"{self.url}/{path} was not read"), target.open("wb") as file:
            for chunk in obstore.get(self._inner, path).stream(min_chunk_size=CHUNK):
                data = bytes(chunk)
                file.write(data)
                digest.update(data)
                size += len(data)
        return Digest(size, digest.hexdigest())

    def list(self, prefix: str) -> list[Entry]:
        """All objects below a prefix (whole path segments), sorted by path.

        Raises:
            StoreError: the store refused or does not answer.
        """
        with self._told(f"{self.url}/{prefix} was not listed"):
            found = [m for page in obstore.list(self._inner, prefix) for m in page]
        return sorted((Entry(m["path"], m["size"], m["last_modified"]) for m in found), key=lambda e: e.path)

    def delete(self, paths: Iterable[str]) -> None:
        """Removes objects, in order; one that is gone already is no error.

        Raises:
            StoreError: the store refused or does not answer; the rest stays.
        """
        for path in paths:
            try:
                with self._told(f"{self.url}/{path} was not removed"):
                    obstore.delete(self._inner, path)
            except MissingError:
                continue

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns errors of obstore into ours, each with the object's name."""
        try:
            yield
        except AlreadyExistsError:
            raise ExistsError(f"{what}: an object of this name is there already") from None
        except FileNotFoundError:
            raise MissingError(f"{what}: there is no such object") from None
        except (BaseError, OSError) as error:
            first = str(error).split("\n\nDebug source")[0].replace("\n", " ")
            raise StoreError(f"{what}: {first}; check TALLY_OBJECT_STORE, its endpoint and its credentials") from None


def open_store(settings: Settings) -> Store:
    """The store that the settings name; a folder is created when it is missing.

    s3:// takes endpoint, region and credentials from AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and their kin, or from the machine's role.

    Raises:
        SettingsError: TALLY_OBJECT_STORE is no file:// or s3:// URL.
    """
    url = settings.store_url.rstrip("/")
    parts = urlsplit(url)
    if settings.object_store and (parts.query or parts.fragment):
        raise SettingsError(
            f"TALLY_OBJECT_STORE is {_without_secrets(url)}: what stands behind ? or # would be lost; write %3F or %23 for them"
        )
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        # Settings write the path as it is, users may write it escaped; a path with %20 in it is escaped once more.
        root = Path(unquote(parts.path) if settings.object_store else url.removeprefix("file://"))
        root.mkdir(parents=True, exist_ok=True)
        return Store(LocalStore(prefix=root), f"file://{root}", root)
    if parts.scheme == "s3" and parts.hostname and "@" not in parts.netloc:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        inner = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            # An endpoint written with http:// is meant so: it is a server next door.
            client_options={"allow_http": endpoint.startswith("http://"), "timeout": "600s", "connect_timeout": "5s"},
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR},
        )
        return Store(inner, url, None)
    raise SettingsError(
        f"TALLY_OBJECT_STORE is {_without_secrets(url)}: say file:///absolute/folder or s3://bucket/prefix "
        "(credentials go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    )


def digest_of(path: Path) -> Digest:
    """What a file on the disk holds."""
    with path.open("rb") as file:
        return Digest(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(path: Path, root: Path) -> None:
    sync(path)
    folders: builtins.list[Path] = [path.parent, *path.parent.parents]
    for folder in folders[: folders.index(root) + 1]:
        sync(folder)


def _without_secrets(url: str) -> str:
    return url.split("@")[-1] if "@" in url else url
