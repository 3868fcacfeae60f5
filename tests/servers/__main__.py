"""`make kafka`: Apache Kafka on a free port until Ctrl-C; `python -m tests.servers FOLDER`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.servers.jars import missing
from tests.servers.kafka import start


def main(folder: Path) -> int:
    reason = missing()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    asked = {signal.SIGINT, signal.SIGTERM}
    # Blocked before the start, and so kept: one that comes while the broker boots ends it when it is up.
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    print(f"starting Apache Kafka in {folder}; the first time, Maven fetches it", file=sys.stderr)
    try:
        server = start(folder)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"export TALLY_BOOTSTRAP_SERVERS={server.bootstrap}", flush=True)
    print(f"Apache Kafka runs (pid {server.pid}); its log is {folder / 'server.log'}; Ctrl-C ends it", file=sys.stderr)
    signal.sigwait(asked)
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
