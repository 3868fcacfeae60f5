"""Ctrl-C during a query: heard at once, wherever DuckDB is busy or waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import duckdb

T = TypeVar("T")
GRACE = 2.0  # seconds for an interrupted query to end: here it takes milliseconds


class LeftError(KeyboardInterrupt):
    """The query could not be interrupted, and was left behind with its connection."""

    def __str__(self) -> str:
        """What a person should know."""
        return (
            "the query was left; the stream's process works on it to its end, for Quack has no word to cancel it there"
        )


def cancellable(con: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """What `work` returns, done in a thread of its own while this one listens to Ctrl-C.

    DuckDB asks for signals between two pieces of its own work, and never while it waits for a server: the prompt of a
    live query did not answer any more.

    Raises:
        KeyboardInterrupt: Ctrl-C; the query has ended. LeftError: it has not, `con` may not be used or closed any more.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()  # no signal reaches it
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="tally-query", daemon=True)
    thread.start()
    try:
        return done.result()
    except KeyboardInterrupt:
        con.interrupt()
        thread.join(GRACE)
        if thread.is_alive():
            raise LeftError from None
        raise
