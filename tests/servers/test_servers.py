"""The fixtures themselves: a broker that answers, topics that are new, a log that outlives a restart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tallystream.settings import PROJECT, load
from tallystream.topics.client import ensure_topics, topic_ids, topic_logs
from tallystream.topics.publish import send_all
from tests.servers import jars
from tests.servers.broker import PATIENCE, until


def _ends(settings) -> dict[str, int]:
    return {t: sum(high - low for low, high in ranges.values()) for t, (_, ranges) in topic_logs(settings).items()}


@pytest.mark.parametrize("n", [1, 2])
def test_every_test_has_topics_of_its_own(fresh_topics, n):
    settings = fresh_topics(n)
    assert _ends(settings) == {"orders": 0, "clicks": 0}
    send_all(settings, "clicks", [(b"k", b"v")] * n)
    assert _ends(settings) == {"orders": 0, "clicks": n}


def test_processes_find_the_broker_by_the_environment(home, settings, bootstrap):
    assert load() == settings
    assert load().root == home == Path(os.environ["TALLY_HOME"])
    assert set(topic_ids(settings, list(ensure_topics(settings)))) == {"orders", "clicks"}
    assert bootstrap.startswith("127.0.0.1:")


def test_the_log_and_the_address_outlive_a_restart(broker, fresh_topics):
    settings, address = fresh_topics(1), broker.bootstrap
    send_all(settings, "orders", [(b"k", b"v")] * 3)
    assert broker.restart() == address
    assert _ends(settings) == {"orders": 3, "clicks": 0}


def test_a_killed_broker_comes_back_at_the_same_address(broker, fresh_topics):
    settings, address = fresh_topics(1), broker.bootstrap
    broker.kill()
    assert broker.bootstrap == address
    assert set(ensure_topics(settings)) == {"orders", "clicks"}


@pytest.mark.kafka
def test_make_kafka_says_where_it_is_and_ends_when_asked(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers", str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 0
    assert line == f"export TALLY_BOOTSTRAP_SERVERS=127.0.0.1:{(tmp_path / 'port').read_text()}\n"
    assert "shut down completed" in (tmp_path / "server.log").read_text()


@pytest.mark.kafka
def test_the_broker_dies_with_the_process_that_started_it(tmp_path):
    code = (
        "import os, sys, pathlib; from tests.servers.kafka import start; "
        "print(start(pathlib.Path(sys.argv[1])).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    until(lambda: not _lives(int(done.stdout)), "the broker outlives its parent")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_where_java_is_missing_the_reason_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no java on the PATH" in jars.missing()
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    assert "11.0.2" in jars.missing()
