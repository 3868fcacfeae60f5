"""The few errors that a user meets: each says what happened, where, what was kept, what to do."""

from __future__ import annotations


class TallyError(Exception):
    """A failure that the user can mend; the text is one or two sentences without a traceback.

    `exit_code` is what the command line leaves with: 1 for what the user can mend, 2 for wrong usage.
    """

    exit_code = 1


class UsageError(TallyError):
    """The call itself was wrong: an unknown name, an impossible combination of options."""

    exit_code = 2


class SettingsError(TallyError):
    """An environment variable or a combination of them cannot be honoured."""


class BrokerError(TallyError):
    """The broker cannot be started, reached or trusted."""


class LogWentBackError(BrokerError):
    """A stored offset lies beyond the log's end, below its start, or the topic is another one.

    Reading on would skip or repeat events silently, so nothing is read.
    """


class BrokerRestartedError(BrokerError):
    """The embedded broker was started again under a running stream, maybe without the end of its log.

    What a stream reads next would be other events under the offsets it expects. The log must be held against the
    books first: the supervisor does so, and goes on from the last commit.
    """

    exit_code = 75


class StoppedError(TallyError):
    """Somebody asked to end while something was waited for; what is not committed is read again."""


class ContractError(TallyError):
    """A schema is unknown, incompatible, or not the one a topic promises."""


class InputError(TallyError):
    """A file to be produced holds lines that are no events; nothing was published."""


class ViewError(TallyError):
    """A view file cannot be kept incrementally, or is not one SELECT."""


class WarehouseError(TallyError):
    """The DuckDB file cannot be opened, migrated or written."""


class FenceError(WarehouseError):
    """A commit began at another offset than the stored one: another writer was here, or offsets moved.

    The transaction was rolled back: nothing of it counts.
    """


class QueryError(TallyError):
    """A query that a user sent is wrong or not allowed."""
