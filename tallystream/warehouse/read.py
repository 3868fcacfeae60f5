"""Reads the warehouse from any process: over Quack while a stream runs, from the file when none does."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from tallystream.database import connect
from tallystream.errors import QueryError, WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.cancel import LeftError, cancellable
from tallystream.warehouse.extensions import load_extensions, lock_down
from tallystream.warehouse.guard import check_select
from tallystream.warehouse.live import live_address
from tallystream.warehouse.schema import open_read_only

T = TypeVar("T")

WAIT = 10.0  # seconds for a writer between opening the file and serving it: it replays its log first
PAUSE = 0.05  # seconds between two looks
SEND = "FROM quack_query(?, ?, token := ?, disable_ssl := true)"
HTTP_TIMEOUT = 24 * 3600  # seconds; httpfs's 30 would cut a long query
KIND = re.compile(r"^(?:[A-Z]\w+ )+Error: ")
OWN_LINE = re.compile(r"\n+LINE 1: FROM quack_query\(.*\Z", re.DOTALL)


def open_reader(settings: Settings) -> Reader:
    """A reader of the warehouse as it is now: `live` says which way.

    Raises:
        WarehouseError: there is no warehouse yet, or another process holds it and serves nobody.
    """
    return Reader(settings)


class Reader:
    """Runs SELECTs; each sees one committed state. At rest it holds the file, so close it soon.

    A stream that starts or stops in between is met by finding the way anew, for some seconds.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._address: dict[str, Any] | None = None
        self._con = self._open(time.monotonic() + WAIT)

    @property
    def live(self) -> bool:
        """Whether a running stream answers."""
        return self._address is not None

    def rows(self, sql: str) -> tuple[list[str], list[Any], list[tuple[Any, ...]]]:
        """(column names, DuckDB types, rows) of one SELECT; times are UTC.

        Raises:
            QueryError: it is refused, or wrong, with the place.
        """
        return self._run(sql, _rows)

    def arrow(self, sql: str) -> pa.Table:
        """The result as an Arrow table; HUGEINT is decimal128(38, 0).

        Raises:
            QueryError: it is refused, or wrong, with the place.
        """
        return self._run(sql, lambda result: result.to_arrow_table())

    def close(self) -> None:
        """Lets go of the file or the server."""
        self._con.close()

    def __enter__(self) -> Reader:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _run(self, sql: str, take: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        check_select(sql)
        deadline = time.monotonic() + WAIT
        while True:
            address, con = self._address, self._con
            try:
                given = (sql, []) if address is None else (SEND, [address["quack"], sql, address["token"]])
                return cancellable(con, partial(_fetch, con, given, take))
            except LeftError:
                self._con = _client()
                raise
            except duckdb.Error as error:
                # A wrong query is wrong at once; a server that went away is looked for again.
                gone = address is not None and (_unreachable(error) or live_address(self._settings) != address)
                if not gone or time.monotonic() > deadline:
                    raise QueryError(_told(error)) from None
            self._con.close()
            self._con = self._open(deadline)

    def _open(self, deadline: float) -> duckdb.DuckDBPyConnection:
        while True:
            address = live_address(self._settings)
            if address is not None and _listens(address["quack"]):
                self._address = address
                return _client()
            path = self._settings.warehouse
            if not path.exists():
                raise WarehouseError(f"there is no warehouse at {path} yet; `tally run` makes it")
            try:
                con = _at_rest(path)
            except duckdb.IOException as error:
                if "lock" not in str(error):
                    raise WarehouseError(f"{path} cannot be read: {_told(error)}; nothing was changed") from None
                if time.monotonic() > deadline:
                    raise WarehouseError(
                        f"{path} is held by a process that serves no queries: a stream that is starting or building, or "
                        "another tool; try again in a moment, or see `tally status`"
                    ) from None
            else:
                self._address = None
                return con
            time.sleep(PAUSE)


def _fetch(
    con: duckdb.DuckDBPyConnection, given: tuple[str, list[str]], take: Callable[[duckdb.DuckDBPyConnection], T]
) -> T:
    return take(con.execute(*given))


def listed(column: pa.ChunkedArray) -> pa.Table:
    """The rows of a list of structs in the one row that there is, as `SELECT list(r) FROM (…) r` gives; NULL is no rows.

    Several in one query are of one committed state.
    """
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(column.combine_chunks().flatten())])


def _client() -> duckdb.DuckDBPyConnection:
    con = connect()
    load_extensions(con)
    con.execute(f"SET http_timeout = {HTTP_TIMEOUT}")
    con.execute("SET http_retries = 0")
    return con


def _at_rest(path: Path) -> duckdb.DuckDBPyConnection:
    con = open_read_only(path)
    lock_down(con, [])
    return con


def _listens(uri: str) -> bool:
    """Whether a server is at the address: a dead writer's pid can belong to another process now."""
    host, _, port = uri.removeprefix("quack:").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def _rows(result: duckdb.DuckDBPyConnection) -> tuple[list[str], list[Any], list[tuple[Any, ...]]]:
    described = result.description or []
    return [d[0] for d in described], [d[1] for d in described], result.fetchall()


def _unreachable(error: duckdb.Error) -> bool:
    return "Failed to send message" in str(error)


def _told(error: duckdb.Error) -> str:
    """DuckDB's text with the place in the user's SQL, without the statement that carried it."""
    return KIND.sub("", OWN_LINE.sub("", str(error)), count=1)
