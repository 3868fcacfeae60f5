"""`tally broker`: the embedded one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tallystream import settings as environment
from tallystream.errors import BrokerError, TallyError

broker = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The embedded broker, under TALLY_HOME. For demo and tests."
)


@broker.command()
def start() -> None:
    """Start it, or find it running; prints its address."""
    from tallystream.topics import broker as embedded
    from tallystream.topics.client import ensure_topics

    s = environment.load()
    if s.bootstrap_servers:
        raise TallyError(
            f"TALLY_BOOTSTRAP_SERVERS is {s.bootstrap_servers}: the embedded broker is not needed; unset it to use that"
        )
    address = embedded.start(s).bootstrap
    ensure_topics(s)
    typer.echo(address)


@broker.command()
def stop() -> None:
    """End it in good order; its log stays for the next start."""
    from tallystream.topics import broker as embedded

    typer.echo("stopped" if embedded.stop(environment.load()) else "not running")


@broker.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Say whether it runs, and where; exit 1 when it does not."""
    from tallystream.topics import broker as embedded

    found = embedded.status(environment.load())
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "running": found is not None,
                    "bootstrap_servers": found and found.bootstrap,
                    "pid": found and found.pid,
                }
            )
        )
    if found is None:
        raise BrokerError("no embedded broker runs here; `tally broker start` starts one")
    if not as_json:
        typer.echo(f"{found.bootstrap} (pid {found.pid})")
