"""One process of a run, from its job file to its exit code: `python -m dataflows JOB_FILE PROCESS [ADDRESS ...]`.

The supervisor (`tally run`) writes the job file and starts as many of these as there are workers.
Leaves with 0 after a clean end, 1 after an error that a user can mend, printed as one line, another code after what a
start from the last commit may mend; see `faults`.
"""

from __future__ import annotations

import contextlib
import pickle
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from bytewax.run import cli_main

from dataflows import stop
from dataflows.faults import tell
from dataflows.shop import shop
from dataflows.sink import FAILED
from tallystream.job import Job
from tallystream.warehouse.writer import Writer


def main(args: list[str]) -> int:
    """Runs the flow to its end; see the module's text for `args`."""
    job_file, process, *addresses = args
    stop.install()
    stop.die_with_parent()
    try:
        # Written by our own supervisor under TALLY_HOME, mode 0600.
        job: Job = replace(pickle.loads(Path(job_file).read_bytes()), process=int(process))
        with contextlib.ExitStack() as stack:
            writer = None
            if job.process == 0:
                writer = Writer(job.settings, job.plans)
                stack.callback(writer.close)
                writer.open()
            cli_main(
                shop(job, writer),
                process_id=job.process if len(addresses) > 1 else None,
                addresses=addresses if len(addresses) > 1 else None,
                epoch_interval=timedelta(milliseconds=job.settings.epoch_ms),
            )
            if FAILED:
                raise FAILED[0]
    except BaseException as error:
        return tell(error)
    return 0
