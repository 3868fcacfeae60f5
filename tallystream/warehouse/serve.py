"""Serves the open warehouse to other processes: SQL over Quack, control over HTTP, both on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import duckdb
from prometheus_client import CollectorRegistry

from tallystream.errors import WarehouseError
from tallystream.settings import Settings
from tallystream.warehouse.admin import Action, AdminServer
from tallystream.warehouse.live import live_file

RUNNING = """
    SELECT epoch(now()::TIMESTAMP - query_started_at) FROM quack_active_connections() WHERE state = 'active' ORDER BY 1 DESC
"""
TRIES = 5  # free ports: between our look and Quack's bind another process can take one


class LiveServer:
    """Both servers, and the file that tells their addresses and the token of this start.

    `con` comes from `open_writer_connection`: Quack asks its `tally_authorize` about every query, whatever client
    sends it.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        settings: Settings,
        *,
        health: Callable[[], dict[str, Any]],
        registry: CollectorRegistry,
        actions: Mapping[str, Action] | None = None,
    ):
        self._con = con
        self._settings = settings
        self._token = secrets.token_urlsafe(32)
        self._admin = AdminServer(self._token, health, registry, actions or {})
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Serves, then says so in live.json.

        Raises:
            WarehouseError: a server did not come up; none of them is left running.
        """
        try:
            admin = self._admin.start()
            self._stack.callback(self._admin.stop)
            quack = self._serve_quack()
            self._announce({"quack": quack, "admin": admin})
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Takes live.json away first: nobody new comes. Then ends both servers."""
        self._stack.close()

    def query_seconds(self) -> list[float]:
        """How long each query of a client has run, the longest first; of one that went away too, for none can be cancelled."""
        with self._con.cursor() as cursor:
            rows = cursor.execute(RUNNING).fetchall()
        return [float(row[0]) for row in rows]

    def _serve_quack(self) -> str:
        cursor = self._con.cursor()
        for left in reversed(range(TRIES)):
            uri = f"quack:127.0.0.1:{_free_port()}"
            try:
                cursor.execute(f"CALL quack_serve('{uri}', token := '{self._token}')").fetchall()
            except duckdb.Error as error:
                if left:
                    continue
                cursor.close()
                # The text of the statement holds the token, and DuckDB quotes it.
                told = str(error).split("\n\nLINE", 1)[0]
                raise WarehouseError(f"SQL cannot be served on 127.0.0.1: {told}; nothing was written") from None
            break
        self._stack.callback(cursor.close)
        self._stack.callback(_stop_quack, cursor, uri)
        return uri

    def _announce(self, addresses: dict[str, str]) -> None:
        path = live_file(self._settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        started = datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"
        told = {"pid": os.getpid(), **addresses, "token": self._token, "started_at": started}
        scratch = path.with_name(f".live.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(told, file)
        self._stack.callback(path.unlink, missing_ok=True)
        scratch.replace(path)


def _stop_quack(cursor: duckdb.DuckDBPyConnection, uri: str) -> None:
    # A server left behind would keep threads in the database while the interpreter ends.
    with contextlib.suppress(duckdb.Error):
        cursor.execute(f"CALL quack_stop('{uri}')").fetchall()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port
