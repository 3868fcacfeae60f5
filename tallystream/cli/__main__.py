"""`python -m tallystream.cli` is `tally`."""

from tallystream.cli.main import main

main()
