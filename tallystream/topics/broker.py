"""The embedded broker: noida-db's Kafka under TALLY_HOME, for demo and tests.

It keeps the log in memory and saves as it goes, so it is not durable against kill -9; the check
before every run (`prepare.check_log`) meets a log that went back.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tallystream.errors import BrokerError
from tallystream.settings import Settings

BOOT_SECONDS = 20.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Broker:
    """A running embedded broker: its address and its process."""

    bootstrap: str
    pid: int


def status(settings: Settings) -> Broker | None:
    """The running broker of this TALLY_HOME, or None; a pid that is now another program does not count."""
    try:
        saved = json.loads((settings.broker_dir / "broker.json").read_text())
        broker = Broker(saved["bootstrap"], int(saved["pid"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return broker if _is_broker(broker.pid, settings) else None


def start(settings: Settings) -> Broker:
    """Starts the broker, or finds it running; it speaks before this returns.

    Raises:
        BrokerError: the package is missing, or the broker did not come up; the log's last lines are shown.
    """
    settings.broker_dir.mkdir(parents=True, exist_ok=True)
    with _lock(settings):
        running = status(settings)
        if running is not None:
            return running
        binary = _binary()
        port = _port(settings)
        log = settings.broker_dir / "broker.log"
        with log.open("ab") as out:
            # The binary itself: its Python wrapper would swallow signals and leave a child behind.
            process = subprocess.Popen(
                [
                    str(binary),
                    "start",
                    "--only",
                    "kafka",
                    "--kafka-port",
                    str(port),
                    "--data-dir",
                    str(settings.broker_dir / "data"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=settings.broker_dir,
            )
        bootstrap = f"127.0.0.1:{port}"
        deadline = time.monotonic() + BOOT_SECONDS
        while not _speaks(port):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                tail = log.read_text(errors="replace")[-500:]
                raise BrokerError(f"the embedded broker did not come up on {bootstrap}; its log {log} ends: {tail}")
            time.sleep(0.05)
        (settings.broker_dir / "broker.json").write_text(json.dumps({"bootstrap": bootstrap, "pid": process.pid}))
        return Broker(bootstrap, process.pid)


def stop(settings: Settings) -> bool:
    """Ends the broker in good order, so that it saves its log; False when none ran."""
    running = status(settings)
    if running is None:
        return False
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_broker(running.pid, settings):
        if time.monotonic() > deadline:
            raise BrokerError(
                f"the embedded broker (pid {running.pid}) did not end within {STOP_SECONDS:.0f} s; it was left running"
            )
        time.sleep(0.02)
    (settings.broker_dir / "broker.json").unlink(missing_ok=True)
    return True


def _binary() -> Path:
    spec = find_spec("noida_db")
    if spec is None or spec.origin is None:
        raise BrokerError(
            "the embedded broker is not installed: run `make setup`, or set TALLY_BOOTSTRAP_SERVERS to your Kafka"
        )
    path = Path(spec.origin).parent / "noida-db"
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return path


def _port(settings: Settings) -> int:
    """The port of before when it is free, so that clients find the broker again; else a free one."""
    kept = settings.broker_dir / "port"
    candidates = [int(kept.read_text())] if kept.exists() else []
    for wanted in [*candidates, 0]:
        try:
            with socket.create_server(("127.0.0.1", wanted)) as server:
                port: int = server.getsockname()[1]
        except OSError:
            continue
        kept.write_text(str(port))
        return port
    raise BrokerError("no free port on 127.0.0.1")


def _speaks(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _is_broker(pid: int, settings: Settings) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z" and b"noida-db" in command and str(settings.broker_dir).encode() in command


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """Two commands that start the broker on demand at once must find the same one."""
    with (settings.broker_dir / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
