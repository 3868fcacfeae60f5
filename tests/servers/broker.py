"""The broker that a test runs on: embedded or Apache Kafka, with one face."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException

from tallystream.settings import TOPICS, Settings
from tallystream.topics import broker, client
from tests.servers import kafka

# Seconds until what was asked for is there. A wait that ends as soon as it is costs nothing, and on two cores under a
# load of twenty a stream takes a minute to come up.
PATIENCE = 120.0


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

    @property
    def data(self) -> Path:
        """Where Apache Kafka keeps its partitions."""
        assert self._server is not None, "the embedded broker keeps no segments"
        return self._server.server.folder / "data"

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
        # Its threads may hold the port a moment longer than its first one is seen: it would get another one.
        until(
            lambda: broker.status(self.settings) is None and _free(running.bootstrap),
            "the killed broker is still there",
        )

    def restart(self) -> str:
        """Ends it in good order when it runs, and starts it on the same port with the same log; its address."""
        self.stop()
        return self.bootstrap


@contextmanager
def broker_of(folder: Path, server: Kafka | None) -> Iterator[Broker]:
    """The broker of a TALLY_HOME, without topics yet; `server` None: an embedded one of its own, ended after.

    For fixtures of a wider scope than `broker`'s; they take `kafka_server`, the session's.
    """
    settings = Settings(home=folder, bootstrap_servers=server.server.bootstrap if server else None)
    if server:
        delete_topics(settings)
    try:
        yield Broker("kafka" if server else "embedded", settings, server)
    finally:
        if not server:
            broker.stop(settings)


def delete_topics(settings: Settings) -> None:
    """Removes both topics, and returns when they are gone: a test must not find another's events."""
    admin = client.admin(settings)
    found = [t for t in TOPICS if t in admin.list_topics(timeout=PATIENCE).topics]
    if not found:
        return
    for done in admin.delete_topics(found, operation_timeout=PATIENCE).values():
        done.result(PATIENCE)
    until(lambda: not set(TOPICS) & set(admin.list_topics(timeout=PATIENCE).topics), "deleted topics are still there")


def _free(address: str) -> bool:
    host, port = address.split(":")
    try:
        with socket.create_server((host, int(port))):
            return True
    except OSError:
        return False


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
