"""Runs `charladder ARGUMENTS` until the parent ends: `python -m charladder.studies.end_with_parent PID ARGUMENTS`.

On Linux, the kernel sends SIGTERM when the parent with this PID ends, and training then saves and stops. On other
systems, training continues to its end.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def terminate_with_parent(parent_pid: int) -> None:
    """Requests SIGTERM for the end of the parent process; exits if the parent has already ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            sys.exit(130)


if __name__ == "__main__":
    terminate_with_parent(int(sys.argv.pop(1)))
    runpy.run_module("charladder", run_name="__main__", alter_sys=True)
