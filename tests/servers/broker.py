"""The broker that a test runs on: embedded or Apache Kafka, with one face."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from tallystream.settings import TOPICS, Settings
from tallystream.topics import broker, client
from tests.servers import kafka

PATIENCE = 30.0  # seconds until a broker has done what it was asked for


class Kafka:
    """The session's Apache Kafka: started when first asked for, the same for all tests."""

    name = "kafka"

    def __init__(self, folder: Path):
        self._folder = folder
        self._server: kafka.KafkaServer | None = None

    @property
    def server(self) -> kafka.KafkaServer:
        """The running server; started again when a test has killed it."""
        if self._server is None or not self._server.alive():
            self._server = kafka.start(self._folder)
        return self._server

    def stop(self) -> None:
        """Ends it in good order; the next use starts it again, on the same port and log."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """kill -9."""
        self.server.kill()


@dataclass(frozen=True)
class Broker:
    """What a test may do with its broker, whichever it is."""

    name: str
    settings: Settings
    _server: Kafka | None

    @property
    def bootstrap(self) -> str:
        """Its address; asking starts it."""
        return self._server.server.bootstrap if self._server else broker.start(self.settings).bootstrap

    def stop(self) -> None:
        """Ends it in good order: its log is kept."""
        if self._server:
            self._server.stop()
        else:
            broker.stop(self.settings)

    def kill(self) -> None:
        """kill -9: the embedded broker may lose what it has not saved."""
        if self._server:
            self._server.kill()
            return
        running = broker.status(self.settings)
        assert running is not None, "there is no broker to kill"
        os.kill(running.pid, signal.SIGKILL)
        until(lambda: broker.status(self.settings) is None, "the killed broker is still there")

    def restart(self) -> str:
        """Ends it in good order when it runs, and starts it on the same port with the same log; its address."""
        self.stop()
        return self.bootstrap


@contextmanager
def home(folder: Path, server: Kafka | None) -> Iterator[Broker]:
    """A TALLY_HOME with a broker whose topics are not there yet; `server` None: an embedded broker of its own.

    The environment is the caller's to set (`environment`): subprocesses find the broker by it.
    """
    settings = Settings(home=folder, bootstrap_servers=server.server.bootstrap if server else None)
    if server:
        delete_topics(settings)
    try:
        yield Broker("kafka" if server else "embedded", settings, server)
    finally:
        if not server:
            broker.stop(settings)


def environment(settings: Settings) -> dict[str, str]:
    """What makes a process use these settings; every other TALLY_ variable must be unset."""
    said = {"TALLY_HOME": str(settings.home)}
    if settings.bootstrap_servers:
        said["TALLY_BOOTSTRAP_SERVERS"] = settings.bootstrap_servers
    return said


def delete_topics(settings: Settings) -> None:
    """Removes both topics, and returns when they are gone: a test must not find another's events."""
    admin = client.admin(settings)
    found = [t for t in TOPICS if t in admin.list_topics(timeout=PATIENCE).topics]
    if not found:
        return
    for done in admin.delete_topics(found, operation_timeout=PATIENCE).values():
        done.result(PATIENCE)
    until(lambda: not set(TOPICS) & set(admin.list_topics(timeout=PATIENCE).topics), "deleted topics are still there")


def until(true: Callable[[], bool], otherwise: str) -> None:
    """Waits until it is true; an error of the client is not the answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if true():
                return
        except KafkaException:
            pass
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)
