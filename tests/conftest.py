"""One suite, two brokers: what touches a broker is written once, and runs on both.

`make test` gives every test an embedded broker of its own, `make test-kafka` (`pytest --broker kafka -m broker`)
Apache Kafka, one for the session, with the topics made anew for each test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tallystream.settings import Settings
from tallystream.topics.client import ensure_topics
from tests.servers import broker as servers
from tests.servers import jars

MARKERS = (
    "broker: touches a broker (given by itself to every test that uses one of the broker's fixtures)",
    "embedded: about the embedded broker itself; not run with --broker kafka",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--broker", choices=("embedded", "kafka"), default="embedded", help="the broker that tests run on")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = config.getoption("--broker")
    unable = jars.missing() if chosen == "kafka" else None
    for item in items:
        of_kafka, of_embedded = item.get_closest_marker("kafka"), item.get_closest_marker("embedded")
        if not (of_kafka or "kafka_server" in getattr(item, "fixturenames", ())):
            continue
        item.add_marker("broker")
        if unable:
            item.add_marker(pytest.mark.skip(reason=unable))
        elif of_kafka and chosen != "kafka":
            item.add_marker(pytest.mark.skip(reason="needs Apache Kafka itself: make test-kafka"))
        elif of_embedded and chosen == "kafka":
            item.add_marker(pytest.mark.skip(reason="about the embedded broker itself: make test"))


class _ByFile(LoadScopeScheduling):
    """A file's tests stay on one core, for they may share a stream or a warehouse.

    Not those of tests/recovery: each has all to itself, and they are the longest. A file of them at the end of a run
    would leave the other core idle for minutes.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return nodeid if file.startswith("tests/recovery/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


@pytest.fixture(scope="session")
def kafka_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.Kafka | None]:
    """The session's Apache Kafka with --broker kafka; else None. For fixtures of a wider scope than `broker`."""
    if request.config.getoption("--broker") != "kafka":
        yield None
        return
    server = servers.Kafka(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TALLY_HOME of its own, and no settings of the person who runs the tests; no broker: see `settings`."""
    for name in [n for n in os.environ if n.startswith(("TALLY_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TALLY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def broker(kafka_server: servers.Kafka | None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Broker]:
    """The test's broker, without topics yet; processes that the test starts find it by the environment."""
    with servers.broker_of(home, kafka_server) as made:
        if made.settings.bootstrap_servers:
            monkeypatch.setenv("TALLY_BOOTSTRAP_SERVERS", made.settings.bootstrap_servers)
        yield made


@pytest.fixture
def settings(broker: servers.Broker) -> Settings:
    """The settings of the test's TALLY_HOME and broker: the same that `load()` finds."""
    return broker.settings


@pytest.fixture
def bootstrap(broker: servers.Broker) -> str:
    """The address of the test's broker."""
    return broker.bootstrap


@pytest.fixture
def fresh_topics(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Settings]:
    """Makes both topics with so many partitions: `fresh_topics(2)`; the settings that say so."""

    def make(partitions: int = 4) -> Settings:
        monkeypatch.setenv("TALLY_PARTITIONS", str(partitions))
        made = settings.model_copy(update={"partitions": partitions})
        assert set(ensure_topics(made).values()) == {partitions}
        return made

    return make
