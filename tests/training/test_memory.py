import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from charladder.training.memory import retain_freed_memory
if {kept}:
    retain_freed_memory()
for turn in range(40):  # the first may still make the heap grow
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library's settings are those of Linux")
def test_large_tensors_get_the_memory_that_others_gave_back():
    faults = {}
    for kept in (True, False):
        done = subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], stdout=subprocess.PIPE, check=True)
        faults[kept] = int(done.stdout)
    assert faults[True] < 100
    assert faults[True] < faults[False]
