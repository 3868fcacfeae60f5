"""The embedded broker: found again, never twice on one log, and its traps."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tallystream.errors import BrokerError
from tallystream.topics import broker
from tallystream.topics.client import ensure_topics, kafka_config, log_range, topic_ids, topic_logs
from tallystream.topics.publish import Publisher

# Its process, its files and its port: there is nothing to ask of another broker.
pytestmark = pytest.mark.embedded


def _brokers_of(settings) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"noida-db" in command and str(settings.broker_dir).encode() in command:
                found.append(int(entry.name))
    return found


def test_it_starts_is_found_again_and_stops(settings):
    assert broker.status(settings) is None
    started = broker.start(settings)
    assert broker.start(settings) == started == broker.status(settings)
    assert broker.stop(settings) is True
    assert broker.status(settings) is None
    assert broker.stop(settings) is False


def test_its_log_and_port_outlive_a_restart(settings):
    ensure_topics(settings, ["clicks"])
    publisher = Publisher(settings)
    publisher.send("clicks", [b"k"] * 10, [b"v"] * 10)
    publisher.close()
    before, bootstrap = log_range(settings, "clicks", 4), broker.status(settings).bootstrap
    broker.stop(settings)
    assert broker.start(settings).bootstrap == bootstrap
    assert log_range(settings, "clicks", 4) == before
    assert sum(high - low for low, high in before.values()) == 10


def test_its_log_has_an_id_that_goes_with_the_log(settings):
    ensure_topics(settings)
    first = topic_ids(settings, ["orders", "clicks"])
    assert None not in first.values()
    broker.stop(settings)
    broker.start(settings)
    assert topic_ids(settings, ["orders", "clicks"]) == first
    broker.stop(settings)
    shutil.rmtree(settings.broker_dir / "data")
    ensure_topics(settings)
    assert topic_ids(settings, ["orders"])["orders"] not in {None, first["orders"]}
    # Its address may be another TALLY_HOME's: who names it is told no id.
    named = settings.model_copy(update={"bootstrap_servers": broker.start(settings).bootstrap})
    assert topic_ids(named, ["orders"]) == {"orders": None}


def test_each_start_of_it_is_told_from_the_last(settings):
    assert broker.incarnation(settings) is None
    broker.start(settings)
    first = broker.incarnation(settings)
    broker.start(settings)
    assert broker.incarnation(settings) == first
    broker.stop(settings)
    broker.start(settings)
    assert broker.incarnation(settings) not in {None, first}


def test_many_that_start_it_at_once_find_the_same(settings):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: broker.start(settings), range(8)))
    assert len(found) == 1
    assert len(_brokers_of(settings)) == 1


def test_it_survives_the_process_that_started_it(settings):
    code = (
        "from tallystream.settings import load; from tallystream.topics import broker; print(broker.start(load()).pid)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert broker.status(settings).pid == pid


def test_a_stale_pid_that_is_now_another_program_does_not_count(settings):
    settings.broker_dir.mkdir(parents=True)
    saved = settings.broker_dir / "broker.json"
    saved.write_text(json.dumps({"bootstrap": "127.0.0.1:1", "pid": os.getpid()}))
    assert broker.status(settings) is None
    assert broker.stop(settings) is False
    assert broker.start(settings).pid != os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"bootstrap": "x", "pid": null}'])
def test_a_damaged_address_file_is_no_broker(settings, content):
    settings.broker_dir.mkdir(parents=True)
    (settings.broker_dir / "broker.json").write_text(content)
    assert broker.status(settings) is None


def test_a_killed_broker_is_started_again(settings):
    first = broker.start(settings)
    os.kill(first.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while broker.status(settings) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert broker.start(settings).pid != first.pid
    assert set(ensure_topics(settings)) == {"orders", "clicks"}


def test_a_port_taken_by_another_program_is_left_to_it(settings):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        settings.broker_dir.mkdir(parents=True)
        (settings.broker_dir / "port").write_text(str(taken))
        assert broker.start(settings).bootstrap != f"127.0.0.1:{taken}"


def test_a_port_lost_between_the_look_and_the_start_is_replaced(settings, monkeypatch):
    look = broker._port
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1]]
        monkeypatch.setattr(broker, "_port", lambda s: ports.pop() if ports else look(s))
        started = broker.start(settings)
        assert started.bootstrap != f"127.0.0.1:{other.getsockname()[1]}"
    assert len(_brokers_of(settings)) == 1


def test_a_broker_that_cannot_start_shows_its_log(settings):
    settings.broker_dir.mkdir(parents=True)
    (settings.broker_dir / "data").write_text("a file where a folder must be")
    with pytest.raises(BrokerError, match="did not come up"):
        broker.start(settings)


def test_topics_keep_everything_and_those_that_exist_are_used_as_they_are(settings):
    assert ensure_topics(settings.model_copy(update={"partitions": 2}), ["clicks"]) == {"clicks": 2}
    assert ensure_topics(settings) == {"orders": 4, "clicks": 2}
    assert topic_logs(settings, ["clicks"])["clicks"][1] == {0: (0, 0), 1: (0, 0)}
    assert set(topic_ids(settings, ["orders", "clicks"])) == {"orders", "clicks"}


def test_a_broker_that_is_not_there_is_a_sentence(settings):
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    away = settings.model_copy(update={"bootstrap_servers": nobody})
    assert kafka_config(away)["bootstrap.servers"] == nobody
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tallystream.topics.client.TIMEOUT", 0.5)
        with pytest.raises(BrokerError, match=f"{nobody} does not answer"):
            ensure_topics(away)


def test_options_of_the_environment_reach_every_client(settings, monkeypatch):
    monkeypatch.setenv("TALLY_KAFKA_CLIENT_ID", "me")
    assert kafka_config(settings)["client.id"] == "me"


def test_the_commands(tally, settings):
    code, out, _ = tally("broker", "status", "--json")
    assert (code, json.loads(out)["running"]) == (1, False)
    code, address, _ = tally("broker", "start")
    assert code == 0
    code, out, _ = tally("broker", "status", "--json")
    assert (code, json.loads(out)) == (
        0,
        {"running": True, "bootstrap_servers": address.strip(), "pid": broker.status(settings).pid},
    )
    assert tally("broker", "stop")[:2] == (0, "stopped\n")
    assert tally("broker", "stop")[:2] == (0, "not running\n")


def test_the_commands_leave_a_configured_broker_alone(tally, settings, monkeypatch):
    monkeypatch.setenv("TALLY_BOOTSTRAP_SERVERS", "kafka.example:9092")
    code, _, err = tally("broker", "start")
    assert code == 1
    assert "kafka.example:9092" in err
    assert _brokers_of(settings) == []
