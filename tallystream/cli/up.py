"""`tally up`: everything at once, until Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer
from rich.console import Console

from tallystream import settings as environment


def up(rate: Annotated[int, typer.Option(min=0, help="Events a second of the synthetic shop; 0 for none.")] = 200) -> None:
    """Start the broker (when none is configured), a synthetic shop at a gentle rate, and the stream.

    Query from another terminal: `tally sql "SELECT * FROM revenue_per_minute"`.
    """
    from tallystream.cli.supervise import Supervisor
    from tallystream.topics.client import ensure_topics, kafka_config

    console = Console(stderr=True)
    s = environment.load()
    console.print(f"broker  {kafka_config(s)['bootstrap.servers']}")
    ensure_topics(s)
    shop = None
    if rate:
        command = [sys.executable, "-m", "tallystream.cli", "generate", "--events", str(2**40), "--rate", str(rate)]
        shop = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        console.print(f"shop    {rate} events/s")
    console.print("stream  starting; query it from another terminal: [bold]tally sql[/]; Ctrl-C stops all")
    try:
        code = Supervisor(s, None, 1, False, console).run()
    finally:
        if shop is not None:
            shop.terminate()
            shop.wait(10)
    raise typer.Exit(code)
