"""`python -m charladder.studies.child_process WORDS`: charladder WORDS, which ends with whoever started it.

A parent that is killed can stop nobody any more, so on Linux the kernel is asked to send a request to end, upon which
training saves and stops. Elsewhere a run whose parent was killed trains to its end.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def terminate_with_parent(parent_pid: int) -> None:
    """Asks for SIGTERM when the process `parent` ends; ends at once where it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:
            sys.exit(130)


if __name__ == "__main__":
    terminate_with_parent(int(sys.argv.pop(1)))
    runpy.run_module("charladder", run_name="__main__", alter_sys=True)
