"""Client-side encryption of what leaves for the object store: AES-256-GCM, in segments.

A sealed file is MAGIC, a random salt, and segments of 1 MiB, each with its tag. Every file has a key of
its own, derived from TALLY_SNAPSHOT_KEY and the salt, so a nonce (segment number, last or not) never
meets its key twice. The last segment is marked: a file cut at a segment's end is found. The object's
name is authenticated with every segment: two sealed files cannot be exchanged for each other.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tallystream.errors import SettingsError
from tallystream.store.objects import StoreError

VARIABLE = "TALLY_SNAPSHOT_KEY"
MAGIC = b"TALLY\0\0\1"
SALT, TAG, SEGMENT = 16, 16, 1 << 20


class SealError(StoreError):
    """Sealed bytes do not open: another key, or they were changed."""


@dataclass(frozen=True)
class Key:
    """A secret of 32 bytes; kept out of Settings, which are pickled and printed."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Tells keys apart without telling anything about them."""
        return self._derive(b"id").hex()[:16]

    def sign(self, text: bytes) -> str:
        """A signature that only the key's owner can make, in hex."""
        return hmac.new(self._derive(b"sign"), text, hashlib.sha256).hexdigest()

    def seal(self, source: Path, target: Path, name: str) -> None:
        """Encrypts a file; `name` must be given again to open it."""
        salt = os.urandom(SALT)
        cipher = self._cipher(salt)
        with source.open("rb") as plain, target.open("wb") as sealed:
            sealed.write(MAGIC + salt)
            number, data = 0, plain.read(SEGMENT)
            while True:
                following = plain.read(SEGMENT)
                sealed.write(cipher.encrypt(_nonce(number, not following), data, name.encode()))
                if not following:
                    return
                number, data = number + 1, following

    def open(self, source: Path, target: Path, name: str) -> None:
        """Decrypts what `seal` wrote.

        Raises:
            SealError: another key or name, or the bytes were changed or cut; `target` must not be used.
        """
        with source.open("rb") as sealed, target.open("wb") as plain:
            if sealed.read(len(MAGIC)) != MAGIC:
                raise SealError(f"{name} is not sealed as it should be")
            self._open(sealed, plain, self._cipher(sealed.read(SALT)), name)

    def _open(self, sealed: BinaryIO, plain: BinaryIO, cipher: Any, name: str) -> None:
        number, data = 0, sealed.read(SEGMENT + TAG)
        while True:
            following = sealed.read(SEGMENT + TAG)
            try:
                plain.write(cipher.decrypt(_nonce(number, not following), data, name.encode()))
            except Exception as error:
                # cryptography answers a wrong tag and a piece too short with errors of its own.
                raise SealError(
                    f"{name} does not open: sealed with another key, or changed ({type(error).__name__})"
                ) from None
            if not following:
                return
            number, data = number + 1, following

    def _cipher(self, salt: bytes) -> Any:
        return _aesgcm()(self._derive(b"file" + salt))

    def _derive(self, purpose: bytes) -> bytes:
        return hmac.new(self.secret, b"tallystream " + purpose, hashlib.sha256).digest()


def key_from_environment() -> Key | None:
    """The key in TALLY_SNAPSHOT_KEY; None when it is unset or empty: nothing is sealed then.

    Raises:
        SettingsError: it is not 64 hex digits, or the package `cryptography` is missing.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise SettingsError(f"{VARIABLE} must be 64 hex digits (32 bytes), as `openssl rand -hex 32` prints them")
    _aesgcm()
    return Key(bytes.fromhex(text))


def _aesgcm() -> Any:
    try:
        return importlib.import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM
    except ImportError:
        raise SettingsError(
            f"{VARIABLE} is set, but the package `cryptography` is not installed: install it, or unset the variable"
        ) from None


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
