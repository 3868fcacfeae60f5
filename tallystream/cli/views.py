"""`tally views`: list, check and explain view files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tallystream.errors import UsageError, ViewError

views = typer.Typer(
    no_args_is_help=True, add_completion=False, help="The views: one SQL file each, kept incrementally."
)
Folder = Annotated[
    Path | None,
    typer.Option("--views", help="Folder of the view files.", exists=True, file_okay=False, show_default="sql/views"),
]
Name = Annotated[str | None, typer.Argument(help="One view; all when left out.")]


def _files(folder: Path | None, name: str | None) -> list[Path]:
    from tallystream.views.loader import VIEWS

    files = sorted((folder or VIEWS).glob("*.sql"))
    chosen = [f for f in files if name is None or f.stem == name]
    if not chosen:
        raise UsageError(
            f"no view {name or 'file'} in {folder or VIEWS.name}; there are: {', '.join(f.stem for f in files) or 'none'}"
        )
    return chosen


@views.command("list")
def list_views(
    folder: Folder = None, as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False
) -> None:
    """Names, topics, windows and descriptions."""
    from tallystream.views.loader import load_view

    plans = [load_view(path) for path in _files(folder, None)]
    rows = [
        {
            "name": p.name,
            "topics": list(p.topics),
            "window": p.window and p.window.kind,
            "version": p.version,
            "description": p.description,
        }
        for p in plans
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in ("name", "topics", "window", "description"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            str(row["name"]),
            ", ".join(p for p in row["topics"] or []),
            str(row["window"] or "-"),
            str(row["description"]),
        )
    Console().print(table)


@views.command()
def check(name: Name = None, folder: Folder = None) -> None:
    """Say of each file whether it can be kept incrementally; if not: line, construct and what to do. Exit 1 if any cannot."""
    from tallystream.views.loader import load_view

    refused = []
    for path in _files(folder, name):
        try:
            plan = load_view(path)
            typer.echo(f"ok       {plan.name} ({plan.version})")
        except ViewError as error:
            refused.append(path.stem)
            typer.echo(f"refused  {error}")
    if refused:
        raise ViewError(f"{len(refused)} refused: {', '.join(refused)}")


@views.command()
def explain(name: Name = None, folder: Folder = None) -> None:
    """The plan: shape, state and generated SQL."""
    from tallystream.views.loader import load_view

    typer.echo("\n\n".join(load_view(path).explain() for path in _files(folder, name)))
