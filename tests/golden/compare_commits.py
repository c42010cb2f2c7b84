"""Did a change leave every loss curve as it was, to the bit? Run on one machine, from the root of the repository:

    python tests/golden/compare_commits.py HEAD~1        # against the working tree
    python tests/golden/compare_commits.py HEAD~5 HEAD~1

Twelve steps of each golden case in float64 and float32, with the code (and the helpers of the tests) of either commit:
every total, every term and all weights at the end. Exit code 1 where something differs; it says where first, and by how
much the totals differ at most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import hashlib, json, torch
import test_curves
from helpers import PROSE, make_trainer
found = {}
for dtype in (torch.float64, torch.float32):
    for name, case in test_curves.CASES.items():
        trainer = make_trainer((PROSE * 5).encode(), dtype=dtype, steps=12, **case)
        lines = []
        for _ in range(12):
            report = trainer.step().report
            lines.append([float(report.total), *(term.value for term in report.terms.values())])
        weights = [*trainer.network.state_dict().values(), *trainer.objective.state_dict().values()]
        digest = hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights)).hexdigest()
        found[f"{name}, {str(dtype).removeprefix('torch.')}"] = [lines, digest]
print(json.dumps(found))
"""


def curves(root: Path) -> dict[str, list]:
    path = os.pathsep.join(str(root / part) for part in ("src", "tests", "tests/golden", "."))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new", nargs="?", help="the working tree when not given")
    options = parser.parse_args()
    found = []
    for revision in (options.old, options.new):
        if revision is None:
            found.append(curves(Path.cwd()))
            continue
        with tempfile.TemporaryDirectory() as folder:
            archive = subprocess.run(["git", "archive", revision], stdout=subprocess.PIPE, check=True)
            subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
            found.append(curves(Path(folder)))
    old, new = found
    same = True
    for case in old.keys() & new.keys():
        if old[case] == new[case]:
            print(f"{case}: the same to the bit")
            continue
        same = False
        pairs = list(zip(old[case][0], new[case][0], strict=True))
        first = next((step for step, (a, b) in enumerate(pairs, 1) if a != b), None)
        most = max(abs(a[0] - b[0]) / abs(a[0]) for a, b in pairs)
        print(f"{case}: differs from step {first}, totals by at most {most:.1e} of themselves")
    for case in old.keys() ^ new.keys():
        print(f"{case}: only in one of the two")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
