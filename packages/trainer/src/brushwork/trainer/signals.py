"""SIGTERM, SIGUSR1 and SIGINT as requests to stop after the step, and SLURM's requeue."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""SIGTERM comes at preemption, SIGUSR1 where `sbatch --signal` asks for it, SIGINT from Ctrl-C."""


class StopSignals:
    """Notes the signals that ask to stop, while it is installed.

    Lightning's own handlers save or broadcast from inside the handler: in the middle of a step, and on each rank at
    another place. These only take a note, which the training loop reads where a step is done. A second SIGINT
    interrupts at once. Where SIGINT is ignored or somebody else's, it is left alone.

    Attributes:
        received: number of the last signal; 0 if none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Takes the place of the present handlers; does nothing outside the main thread, where Python allows none."""
        self.received = 0
        if threading.current_thread() is threading.main_thread() and not self._before:
            has_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            numbers = [number for number in STOPPING if number != signal.SIGINT or has_default]
            self._before = {number: signal.signal(number, self._note) for number in numbers}

    def restore(self) -> None:
        """Puts the former handlers back, where nobody else has put one since: Lightning ignores Ctrl-C as it ends."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
            if os.environ.get("LOCAL_RANK", "0") == "0":
                with contextlib.suppress(OSError):  # not logged: a logger may be what was interrupted
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


def requeue_slurm_job() -> None:
    """Asks SLURM to run this job again; says so in the log where it will not."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        answer = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        log.warning("job %s is not requeued: scontrol cannot be run (%s)", job, error)
        return
    if answer.returncode:
        log.warning("job %s is not requeued: %s", job, answer.stderr.strip())
    else:
        log.info("job %s is requeued", job)
