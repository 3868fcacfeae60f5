"""Ends a process of the flow with one sentence and an exit code that tells the supervisor what to do.

Left to Bytewax, an error becomes a panic with a backtrace in Rust, and exit code 1 for whatever it was.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from tallystream.errors import TallyError

CRASHED = 70  # a fault of ours: the supervisor starts the processes again, from the last commit
P = ParamSpec("P")
T = TypeVar("T")


def tell(error: BaseException) -> int:
    """Prints an error, one of ours as a sentence, any other with its traceback; returns the exit code for it."""
    told = _ours(error)
    if told is None:
        traceback.print_exception(error)
    else:
        print(f"error: {told}", file=sys.stderr)
    sys.stderr.flush()
    return CRASHED if told is None else told.exit_code


def leave(error: BaseException) -> NoReturn:
    """Tells and ends at once, as `kill -9` would: what is not committed is read again."""
    os._exit(tell(error))


def guarded(step: Callable[P, T]) -> Callable[P, T]:
    """A function that Bytewax calls: what it raises ends the process, but for the end of a source."""

    @functools.wraps(step)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return step(*args, **kwargs)
        except StopIteration:
            raise
        except BaseException as error:
            leave(error)

    return call


def _ours(error: BaseException | None) -> TallyError | None:
    """The error of ours inside the ones wrapped around it."""
    while error is not None:
        if isinstance(error, TallyError):
            return error
        error = error.__cause__ or error.__context__
    return None
