"""The one resource: where the warehouse, the log and the object store are, as the environment says."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from tallystream import settings as environment
from tallystream.cli.processes import outlived
from tallystream.errors import TallyError, UsageError
from tallystream.settings import Settings
from tallystream.store.objects import Store, open_store

# Replay, backfill and compaction rewrite rows of views; archiving and merging write the archive's index; a drill reads
# what an expiry might remove. Each kind has one slot: the second run waits in the queue, and fails nobody.
REWRITE, ARCHIVE, SNAPSHOT = "rewrite", "archive", "snapshot"

# Event and log time; the oldest hour that a backfill can name. Up to 100 000 partitions are fine for the UI.
HOURS = dg.HourlyPartitionsDefinition(start_date="2019-10-01-00:00", timezone="UTC")


class Tally(dg.ConfigurableResource):  # type: ignore[misc]
    """Reads TALLY_* anew each time: a run lives shorter than its environment. Starts no broker."""

    def settings(self) -> Settings:
        """The settings of the environment.

        Raises:
            SettingsError: a variable is malformed.
        """
        return environment.load(environment.GuestSettings)

    def store(self) -> Store:
        """The object store of archive and snapshots."""
        return open_store(self.settings())


def now() -> datetime:
    """UTC, naive: as the warehouse has times."""
    return datetime.now(UTC).replace(tzinfo=None)


def still_wanted() -> None:
    """For a run that reads for minutes and rewrites then: the `tally up` that it belongs to still runs.

    A killed `up` can cancel nothing, and Dagster leaves a run in flight until it is done.

    Raises:
        TallyError: it has ended.
    """
    if outlived():
        raise TallyError(
            "the `tally up` that this run belongs to has ended; nothing was rewritten: start it, and run this again"
        )


def at_least(least: float, **values: float) -> None:
    """Bounds of a form's numbers, said in a sentence of the first step.

    Raises:
        UsageError: one is below.
    """
    for name, value in values.items():
        if value < least:
            raise UsageError(f"{name} is {value}; say {least} or more")


@contextmanager
def told() -> Iterator[None]:
    """An error that the user can mend fails the run with its sentence, not with a traceback and not after retries.

    Without this, a run list shows 'TallyError' and three hundred lines of frames where one sentence says what to do.
    """
    try:
        yield
    except TallyError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from None


def seconds(value: float) -> dg.FloatMetadataValue:
    """A duration that the UI can plot."""
    return dg.MetadataValue.float(round(value, 3))
