"""Sealed files: what comes out is what went in, or nothing does."""

from __future__ import annotations

import os

import pytest

from tallystream.errors import SettingsError
from tallystream.store import seal
from tallystream.store.seal import MAGIC, SALT, SEGMENT, TAG, Key, SealError, key_from_environment

pytest.importorskip("cryptography")
KEY = Key(bytes(range(32)))


def sealed(tmp_path, data, name="a/b"):
    (tmp_path / "plain").write_bytes(data)
    KEY.seal(tmp_path / "plain", tmp_path / "sealed", name)
    return (tmp_path / "sealed").read_bytes()


def opened(tmp_path, data, name="a/b", key=KEY):
    (tmp_path / "sealed").write_bytes(data)
    key.open(tmp_path / "sealed", tmp_path / "opened", name)
    return (tmp_path / "opened").read_bytes()


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 7])
def test_what_goes_in_comes_out(tmp_path, size):
    data = os.urandom(size)
    assert opened(tmp_path, sealed(tmp_path, data)) == data


def test_the_same_file_is_never_sealed_the_same(tmp_path):
    first, second = sealed(tmp_path, b"x" * 1000), sealed(tmp_path, b"x" * 1000)
    assert first != second
    assert b"x" * 16 not in first


def test_another_key_or_name_opens_nothing(tmp_path):
    data = sealed(tmp_path, b"secret")
    for name, key in (("a/b", Key(bytes(32))), ("a/c", KEY)):
        with pytest.raises(SealError, match="sealed with another key, or changed"):
            opened(tmp_path, data, name, key)


def damages():
    head, piece = len(MAGIC) + SALT, SEGMENT + TAG

    def swapped(d):
        return d[:head] + d[head + piece : head + 2 * piece] + d[head : head + piece] + d[head + 2 * piece :]

    return {
        "a flipped bit": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
        "a flipped bit in the salt": lambda d: d[:9] + bytes([d[9] ^ 1]) + d[10:],
        "cut inside a segment": lambda d: d[:-5],
        "cut at a segment's end": lambda d: d[: head + piece],
        "cut to the header": lambda d: d[:head],
        "two segments exchanged": swapped,
        "something behind": lambda d: d + b"x",
        "empty": lambda d: b"",
    }


@pytest.mark.parametrize("damage", damages().values(), ids=damages().keys())
def test_no_damage_is_overlooked(tmp_path, damage):
    data = sealed(tmp_path, os.urandom(2 * SEGMENT + 10))
    with pytest.raises(SealError):
        opened(tmp_path, damage(data))


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("TALLY_SNAPSHOT_KEY", raising=False)
    assert key_from_environment() is None
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    key = key_from_environment()
    assert key == Key(b"\xab" * 32)
    assert "abab" not in repr(key)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "password")
    with pytest.raises(SettingsError, match="64 hex digits") as told:
        key_from_environment()
    assert "password" not in str(told.value)


def test_a_key_without_the_package_is_refused_and_nothing_is_stored_in_the_clear(monkeypatch):
    def missing(_name):
        raise ImportError

    monkeypatch.setattr(seal.importlib, "import_module", missing)
    monkeypatch.setenv("TALLY_SNAPSHOT_KEY", "ab" * 32)
    with pytest.raises(SettingsError, match="`cryptography` is not installed"):
        key_from_environment()
