"""`tally`, and `python -m tallystream.cli`."""

from tallystream.cli.main import main
from tallystream.lean import without_pandas


def tally() -> None:
    """The entry point: a process of its own."""
    without_pandas()
    main()


if __name__ == "__main__":
    tally()
