"""The embedded broker: noida-db's Kafka under TALLY_HOME, for demo and tests.

It keeps the log in memory and saves as it goes, so it is not durable against kill -9; the check
before every run (`same_log.check_log`) meets a log that went back.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tallystream.errors import BrokerError
from tallystream.settings import Settings

BOOT_SECONDS = 60.0  # idle cores need far less; on busy ones a demo must not fail for this
STOP_SECONDS = 60.0  # it saves its log first: a gigabyte took more than ten seconds on two busy cores
TRIES = 3  # ports that may be lost to another program
_answered: set[str] = set()  # addresses that answered this process once: no need to ask before every client


@dataclass(frozen=True)
class Broker:
    """A running embedded broker: its address and its process."""

    bootstrap: str
    pid: int


def status(settings: Settings) -> Broker | None:
    """The running broker of this TALLY_HOME, or None; a pid that is now another program does not count."""
    try:
        saved = json.loads((settings.broker_dir / "broker.json").read_text())
        broker = Broker(str(saved["bootstrap"]), int(saved["pid"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return broker if _is_broker(broker.pid, settings) else None


def log_id(settings: Settings) -> str | None:
    """What tells the log of this TALLY_HOME from one begun anew, as the broker's topics have no ids; None before it began."""
    path = settings.broker_dir / "log_id"
    return path.read_text().strip() if path.exists() else None


def incarnation(settings: Settings) -> tuple[int, int] | None:
    """Changes with each start of the broker, before it answers anybody; None while none was started. Cheap: one stat."""
    try:
        found = (settings.broker_dir / "broker.json").stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def address(settings: Settings) -> str:
    """Where it listens; started on demand, unless these settings are a guest's.

    Raises:
        BrokerError: it does not come up, or it does not run and a guest starts none.
    """
    if settings.starts_broker:
        return start(settings).bootstrap
    running = status(settings)
    if running is None:
        raise BrokerError(
            f"the embedded broker of {settings.root} does not run, and a job does not start it; nothing was read or changed: "
            "`tally broker start` starts it, as do `tally run` and `tally up`"
        )
    return running.bootstrap


def start(settings: Settings) -> Broker:
    """Starts the broker, or finds it running; it answers as Kafka before this returns.

    Raises:
        BrokerError: the package is missing, or the broker did not come up; the log's last lines are shown.
    """
    settings.broker_dir.mkdir(parents=True, exist_ok=True)
    running = status(settings)
    if running is not None and running.bootstrap in _answered:
        return running
    with _lock(settings):
        running = status(settings)
        for _ in range(TRIES):
            if running is None:
                running, process = _spawn(settings)
                # Asked of the process itself: /proc shows no command line for a moment after the start.
                up = _wait(running, settings, partial(_lives, process))
            else:
                up = _wait(running, settings, partial(_is_broker, running.pid, settings))
            if up:
                _answered.add(running.bootstrap)
                return running
            # Its port went to another program between the look and the start: take another.
            running = None
        log = settings.broker_dir / "broker.log"
        tail = log.read_text(errors="replace")[-500:].strip()
        raise BrokerError(f"the embedded broker did not come up; its log {log} ends: {tail}")


def _spawn(settings: Settings) -> tuple[Broker, subprocess.Popen[bytes]]:
    _name_log(settings)
    port = _port(settings)
    command = [str(_binary()), "start", "--only", "kafka", "--kafka-port", str(port)]
    with (settings.broker_dir / "broker.log").open("ab") as out:
        # The binary itself: its Python wrapper would swallow signals and leave a child behind.
        process = subprocess.Popen(
            [*command, "--data-dir", str(settings.broker_dir / "data")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=settings.broker_dir,
        )
    started = Broker(f"127.0.0.1:{port}", process.pid)
    # Written before it answers: were this process killed now, the next start must find the broker,
    # and not put a second one on the same data.
    fresh = settings.broker_dir / "broker.json.new"
    fresh.write_text(json.dumps({"bootstrap": started.bootstrap, "pid": started.pid}))
    fresh.replace(settings.broker_dir / "broker.json")
    return started, process


def _name_log(settings: Settings) -> None:
    """A log that begins gets a name; one from before there were names gets it now."""
    path = settings.broker_dir / "log_id"
    if path.exists() and (settings.broker_dir / "data").exists():
        return
    fresh = path.with_name("log_id.new")
    fresh.write_text(str(uuid.uuid4()))
    fresh.replace(path)


def _wait(broker: Broker, settings: Settings, alive: Callable[[], bool]) -> bool:
    """Until it answers; False when its process ended.

    Raises:
        BrokerError: it lives and does not answer.
    """
    deadline = time.monotonic() + BOOT_SECONDS
    client = AdminClient(
        {"bootstrap.servers": broker.bootstrap, "receive.message.max.bytes": "2000000000", "log_level": 0}
    )
    while alive():
        try:
            client.list_topics(timeout=1)
            # Another program's Kafka may have answered in its place.
            return alive()
        except KafkaException:
            if time.monotonic() > deadline:
                # Not killed: it may be busy, and it holds in memory what it has not saved yet.
                raise BrokerError(
                    f"the embedded broker (pid {broker.pid}) did not answer within {BOOT_SECONDS:.0f} s; "
                    f"see {settings.broker_dir / 'broker.log'}, or end it with `tally broker stop`"
                ) from None
    return False


def stop(settings: Settings) -> bool:
    """Ends the broker in good order, so that it saves its log; False when none ran."""
    running = status(settings)
    if running is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_broker(running.pid, settings):
        if time.monotonic() > deadline:
            raise BrokerError(
                f"the embedded broker (pid {running.pid}) did not end within {STOP_SECONDS:.0f} s; it was left running"
            )
        time.sleep(0.02)
    # Its last threads can hold the port a moment longer: a start right now would take another one.
    while not _is_free(running.bootstrap) and time.monotonic() < deadline:
        time.sleep(0.02)
    (settings.broker_dir / "broker.json").unlink(missing_ok=True)
    return True


def _is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
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
    before = kept.read_text().strip() if kept.exists() else ""
    for wanted in ([int(before)] if before.isdecimal() else []) + [0]:
        try:
            with socket.create_server(("127.0.0.1", wanted)) as server:
                port: int = server.getsockname()[1]
        except (OSError, OverflowError):
            continue
        kept.write_text(str(port))
        return port
    raise BrokerError("no free port on 127.0.0.1")


def _lives(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


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
