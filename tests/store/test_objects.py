"""The object store behaves the same on a disk and in S3."""

from __future__ import annotations

import os

import pytest

from tallystream.errors import SettingsError
from tallystream.settings import Settings
from tallystream.store.objects import Digest, ExistsError, MissingError, StoreError, digest_of, open_store

pytest_plugins = ["tests.store.fixtures"]


def test_what_is_put_comes_back(store, tmp_path):
    store.put("a/b.txt", b"one")
    store.put("a/b.txt", b"two")
    assert store.get("a/b.txt") == b"two"
    big = tmp_path / "big"
    big.write_bytes(os.urandom((20 << 20) + 1))
    store.put("a/big", big)
    came = store.fetch("a/big", tmp_path / "came")
    assert came == digest_of(big) == digest_of(tmp_path / "came")
    assert [(e.path, e.size) for e in store.list("a")] == [("a/b.txt", 3), ("a/big", (20 << 20) + 1)]


def test_create_never_replaces(store):
    store.put("m", b"first", create=True)
    with pytest.raises(ExistsError, match="m was not written: an object of this name is there already"):
        store.put("m", b"second", create=True)
    assert store.get("m") == b"first"


def test_a_prefix_is_a_folder_and_not_a_beginning(store):
    for path in ("orders/0/x", "orders/01/x", "orders2/0/x"):
        store.put(path, b"")
    assert [e.path for e in store.list("orders/0")] == ["orders/0/x"]
    assert [e.path for e in store.list("orders")] == ["orders/0/x", "orders/01/x"]
    assert store.list("nothing") == []


def test_what_is_missing_is_said(store, tmp_path):
    with pytest.raises(MissingError, match="nope was not read: there is no such object"):
        store.get("nope")
    with pytest.raises(MissingError):
        store.fetch("nope", tmp_path / "x")


def test_deleting_twice_is_no_error(store):
    store.put("x", b"")
    store.put("y", b"")
    store.delete(["x", "never", "y"])
    store.delete(["x"])
    assert store.list("") == []


def test_an_empty_object_is_an_object(store, tmp_path):
    store.put("e", b"", create=True)
    assert store.get("e") == b""
    assert store.fetch("e", tmp_path / "e") == Digest(0, digest_of(tmp_path / "e").sha256)


def test_the_default_is_a_folder_under_home_whatever_its_name(tmp_path):
    home = tmp_path / "a home 100%25 'quoted'"
    store = open_store(Settings(home=home))
    store.put("a/b", b"x")
    assert (home / "store" / "a" / "b").read_bytes() == b"x"


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "file://relative/x", "s3://", "s3://me:secret@bucket/p", "/tmp/x", "s3:bucket"]
)
def test_other_urls_are_refused_without_their_secrets(url):
    with pytest.raises(SettingsError, match="say file:///absolute/folder or s3://bucket/prefix") as told:
        open_store(Settings(object_store=url))
    assert "secret" not in str(told.value).split("(")[0]


def test_a_server_that_is_not_there_is_told_soon(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    with pytest.raises(StoreError, match=r"m was not written.*check TALLY_OBJECT_STORE") as told:
        open_store(Settings(object_store="s3://b/p")).put("m", b"")
    assert "very-secret" not in str(told.value)


def test_a_wrong_secret_is_told(s3_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tally")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StoreError, match="not read") as told:
        open_store(Settings(object_store="s3://tally/p")).get("m")
    assert not isinstance(told.value, MissingError)
    assert "wrong-secret" not in str(told.value)
