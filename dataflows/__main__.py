"""`python -m dataflows` is one process of a run; see `process`."""

import sys

from tallystream.lean import without_pandas

if __name__ == "__main__":
    without_pandas()
    # After it: what is imported here would bring pandas.
    from dataflows.process import main

    sys.exit(main(sys.argv[1:]))
