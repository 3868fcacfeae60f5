"""`tally up`: everything at once, until Ctrl-C."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tallystream import settings as environment
from tallystream.errors import TallyError

if TYPE_CHECKING:
    from tallystream.cli.control_plane import ControlPlane

READY = 180.0  # seconds for Dagster's UI on a busy machine


def up(
    rate: Annotated[int, typer.Option(min=0, help="Events a second of the synthetic shop; 0 for none.")] = 200,
    ui: Annotated[bool, typer.Option(help="Dagster beside the stream: replays, backfills, quality, snapshots.")] = True,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of Dagster's web UI.", show_default="a free one")
    ] = None,
) -> None:
    """Start the broker (when none is configured), a synthetic shop at a gentle rate, the stream, and Dagster's web UI.

    Query from another terminal: `tally sql "SELECT * FROM revenue_per_minute"`. Ctrl-C and SIGTERM end all of it in
    good order, the embedded broker too when this started it.
    """
    from tallystream.cli.control_plane import ControlPlane, installed
    from tallystream.cli.processes import become_child
    from tallystream.cli.supervise import Supervisor
    from tallystream.topics import broker
    from tallystream.topics.client import ensure_topics, kafka_config

    console = Console(stderr=True)
    s = environment.load()
    with contextlib.ExitStack() as stack:
        plane = ControlPlane(s, port) if ui and installed() else None
        # The broker last: whoever still lived could start it anew.
        if s.bootstrap_servers is None and broker.status(s) is None:
            stack.callback(broker.stop, s)
        console.print(f"broker  {kafka_config(s)['bootstrap.servers']}")
        ensure_topics(s)
        if rate:
            command = [
                sys.executable,
                "-m",
                "tallystream.cli",
                "generate",
                "--events",
                str(2**40),
                "--rate",
                str(rate),
                "--heartbeat",
            ]
            quiet = subprocess.DEVNULL
            shop = subprocess.Popen(
                command, start_new_session=True, stdout=quiet, stderr=quiet, preexec_fn=become_child
            )
            stack.callback(_end, shop)
            console.print(f"shop    {rate} events/s")
        if plane is not None:
            stack.callback(plane.stop)
            plane.start()
            threading.Thread(target=_announce, args=(plane, console), daemon=True).start()
        elif ui:
            console.print("ui      Dagster is not installed: no web UI; `make setup` installs it")
        console.print("stream  starting; query it from another terminal: [bold]tally sql[/]; Ctrl-C stops all")
        # Dagster first: a run that asks the writer is cancelled, not failed by a writer that went away.
        code = Supervisor(s, None, 1, False, console, before_stop=plane.stop if plane else lambda: None).run()
        console.print("stopping")
    raise typer.Exit(code)


def _announce(plane: ControlPlane, console: Console) -> None:
    """Prints the address when a browser finds something there."""
    try:
        plane.wait(READY)
        console.print(f"ui      {plane.url}")
    except TallyError as error:
        console.print(f"[yellow]ui      {error}[/]")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
