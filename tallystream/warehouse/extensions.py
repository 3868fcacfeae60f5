"""The writer's DuckDB connection: extensions loaded from installed packages, then locked down."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import duckdb
from duckdb.func import FunctionNullHandling

from tallystream.database import take_half
from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.guard import authorize
from tallystream.warehouse.held import connect

# Quack's server takes its random session ids from httpfs's OpenSSL, its client sends through httpfs.
LIVE_EXTENSIONS = ("httpfs", "quack")
CHECKPOINT_WAL = "256MB"  # with DuckDB's 16 MB a commit waits for a checkpoint every few seconds
# Of DuckDB's own limit, which is four fifths of the machine's memory: events on their way, other processes of the stream
# and Dagster need the rest. A query that needs more spills to TALLY_HOME, or fails alone.
MEMORY_SHARE = 0.6


@cache
def extension_path(name: str) -> Path:
    """The extension's binary in the package duckdb-extension-NAME; nothing is downloaded, ever.

    Raises:
        WarehouseError: it is not installed, or not for this DuckDB.
    """
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise WarehouseError(f"the package duckdb-extension-{name} is not installed; run `make setup`")
    path = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.is_file():
        raise WarehouseError(f"duckdb-extension-{name} is not for DuckDB {duckdb.__version__}; run `make setup`")
    return path


def load_extensions(con: duckdb.DuckDBPyConnection) -> None:
    """LOADs what Quack needs, by path."""
    for name in LIVE_EXTENSIONS:
        con.execute(f"LOAD {quoted(str(extension_path(name)))}")


def open_writer_connection(path: Path, allowed_dirs: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """Opens the file for writing, ready to be served, with no way out but `allowed_dirs` (for EXPORT).

    The order matters: LOAD and SET are impossible after the last lines, and a SELECT that someone sends could
    read any file before them.

    Raises:
        WarehouseError: an extension is missing, another process holds the file for longer than a query takes, or it is no
            database.
    """
    for name in LIVE_EXTENSIONS:
        extension_path(name)
    con = connect(path)
    try:
        load_extensions(con)
        con.create_function(
            "tally_authorize",
            authorize,
            ["VARCHAR", "VARCHAR"],
            "VARCHAR",
            null_handling=FunctionNullHandling.SPECIAL,
            side_effects=True,
        )
        con.execute("SET GLOBAL quack_authorization_function = 'tally_authorize'")
        con.execute(f"SET GLOBAL checkpoint_threshold = '{CHECKPOINT_WAL}'")
        take_half(con)
        con.execute(f"SET GLOBAL memory_limit = '{memory_limit(con)}'")
        con.execute(f"SET GLOBAL max_temp_directory_size = '{spill_limit(path.parent)}'")
        lock_down(con, allowed_dirs)
    except BaseException:
        con.close()
        raise
    return con


def memory_limit(con: duckdb.DuckDBPyConnection) -> str:
    """How much commits and queries together may have, such as `11.3 GiB`."""
    found = con.execute("SELECT current_setting('memory_limit')").fetchone()
    assert found is not None
    number, unit = str(found[0]).split()
    return f"{float(number) * MEMORY_SHARE:.1f} {unit}"


def spill_limit(folder: Path) -> str:
    """How much queries may spill to the disk that the log and the warehouse are on: DuckDB's nine tenths leave them too little."""
    return f"{shutil.disk_usage(folder).free // 2} bytes"


def lock_down(con: duckdb.DuckDBPyConnection, allowed_dirs: Sequence[Path]) -> None:
    """No files, network or Python variables from SQL any more, and no way to change that."""
    con.execute(f"SET allowed_directories = [{', '.join(quoted(str(d)) for d in allowed_dirs)}]")
    con.execute("SET python_enable_replacements = false")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def open_warehouse(settings: Settings) -> duckdb.DuckDBPyConnection:
    """Opens the file for writing, locked down.

    Raises:
        WarehouseError: another process holds the file, or it is no warehouse.
    """
    settings.root.mkdir(parents=True, exist_ok=True)
    return open_writer_connection(settings.warehouse, [settings.root / "export"])
