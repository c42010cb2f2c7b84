"""retain_freed_memory reduces page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from charladder.training.memory import retain_freed_memory
if {retain}:
    retain_freed_memory()
for iteration in range(40):  # in the first iterations the heap may still grow
    if iteration == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library's settings are those of Linux")
def test_new_tensors_reuse_the_memory_of_freed_tensors():
    faults = {}
    for retain in (True, False):
        command = [sys.executable, "-c", PROGRAM.format(retain=retain)]
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        faults[retain] = int(result.stdout)
    assert faults[True] < 100
    assert faults[True] < faults[False]
