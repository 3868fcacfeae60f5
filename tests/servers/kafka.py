"""Apache Kafka itself: one KRaft broker and controller on 127.0.0.1, for tests and `make kafka`."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.jars import HERE, class_path

BOOT_SECONDS = 150.0  # 3 s on two idle cores; tests share them
STOP_SECONDS = 60.0
CLUSTER_ID = "VGFsbHlzdHJlYW1UZXN0cw"  # any sixteen bytes in base64
# Below the range that the kernel gives to outgoing connections: else some client may hold the port when
# the broker starts, or starts again, and the ports are written into the data.
PORTS = range(20_000, 32_000)

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    # One broker: nothing has a second replica. Few partitions: all are made at the first use.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    # A look at a deleted topic must not make it again.
    "auto.create.topics.enable": "false",
    # Tests publish events of 2019: a week's retention would remove them while they are read.
    "log.retention.ms": "-1",
    # Tests publish messages of 10 MB.
    "message.max.bytes": str(12 << 20),
    # After kill -9 the broker may not register again before its last incarnation has timed out: 9 s as shipped.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Compaction within a test's patience.
    "log.cleaner.backoff.ms": "100",
    "log.initial.task.delay.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
}


class KafkaServer:
    """A running broker: its address, its process, and how to end it."""

    def __init__(self, folder: Path, bootstrap: str, process: subprocess.Popen[bytes]):
        self.folder = folder
        self.bootstrap = bootstrap
        self.pid = process.pid
        self._process = process
        # Reads a pipe that this process alone holds open: however it ends, the broker ends with it.
        self._watchdog = subprocess.Popen(
            ["sh", "-c", f"read -r _; kill -9 {process.pid}"], stdin=subprocess.PIPE, start_new_session=True
        )

    def log(self) -> str:
        """The last lines that the broker wrote."""
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]

    def alive(self) -> bool:
        """The process has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends it in good order; by force when it does not end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: what the page cache holds stays, clients are told nothing."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)  # nothing when it has been waited for
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._watchdog.kill()
        self._watchdog.communicate()


def start(
    folder: Path,
    protocol: str = "PLAINTEXT",
    properties: Mapping[str, str] | None = None,
    format_with: Sequence[str] = (),
    client: Mapping[str, str] | None = None,
    heap: str = "768m",
) -> KafkaServer:
    """Starts the broker of this folder, made at the first call; it answers before this returns.

    `protocol` is the clients' security protocol, `properties` more lines of server.properties and
    `format_with` more arguments of StorageTool (users), all three for a new folder alone; `client` is
    what a client needs to log in.

    Raises:
        RuntimeError: it did not come up; the end of its log.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "port"
    if not kept.exists():
        _format(folder, protocol, properties or {}, format_with)
    with (folder / "server.log").open("ab") as out:
        process = subprocess.Popen(
            [*_java(heap), "kafka.Kafka", str(folder / "server.properties")],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            # Ctrl-C is for this process, which then ends the broker in good order.
            start_new_session=True,
        )
    server = KafkaServer(folder, f"127.0.0.1:{kept.read_text()}", process)
    try:
        _wait(server, client or {})
    except BaseException:
        server.kill()
        raise
    return server


def _format(folder: Path, protocol: str, more: Mapping[str, str], format_with: Sequence[str]) -> None:
    clients, internal, controller = _free_ports(3)
    properties = {
        **PROPERTIES,
        "log.dirs": str(folder / "data"),
        "listeners": f"CLIENTS://127.0.0.1:{clients},INTERNAL://127.0.0.1:{internal},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": f"CLIENTS:{protocol},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        **more,
    }
    file = folder / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    tool = [*_java("256m"), "kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted"]
    done = subprocess.run(
        [*tool, "--cluster-id", CLUSTER_ID, "--config", str(file), *format_with],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{folder} could not be formatted: {(done.stdout + done.stderr)[-2000:]}")
    # The quorum records the controller's port in the data: written last, and never chosen again.
    (folder / "port").write_text(str(clients))


def _java(heap: str) -> list[str]:
    return ["java", f"-Xmx{heap}", f"-Dlog4j2.configurationFile={HERE / 'log4j2.xml'}", "-cp", class_path()]


def _free_ports(n: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        try:
            with closing(socket.create_server(("127.0.0.1", port))):
                found.append(port)
        except OSError:
            continue
        if len(found) == n:
            return found
    raise RuntimeError(f"no {n} free ports in {PORTS}")


def _wait(server: KafkaServer, client: Mapping[str, str]) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    asking = AdminClient({"bootstrap.servers": server.bootstrap, "log_level": 0, **client})
    while server.alive():
        try:
            # The address answers before the broker is registered, with no broker in the answer.
            if asking.list_topics(timeout=1).brokers:
                return
        except KafkaException:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"Apache Kafka did not answer within {BOOT_SECONDS:.0f} s; its log ends:\n{server.log()}"
            )
        time.sleep(0.05)
    raise RuntimeError(f"Apache Kafka ended at its start; its log ends:\n{server.log()}")
