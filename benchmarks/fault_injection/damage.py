"""Checkpoints with flipped bytes, cut short, or with a file of another run.

Each is refused by the name of the file, and the checkpoint before it used.
"""

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fault_injection.kills import TEXT, TINY, cache
from charladder.cli.main import main
from charladder.training.checkpoint import list_checkpoints, load_newest


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts what was tried and what was not noticed, which must be nothing."""
    draw = random.Random(options.seed)
    found = {
        "flipped": 0, "cut short": 0, "swapped": 0, "LOST: damage that was not noticed": 0,
        "LOST: refused without the file's name": 0, "LOST: the checkpoint before not used": 0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        with (
            cache(folder / "cache"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            for seed in "12":
                words = ["train", str(folder / "text"), "--run", str(folder / seed), *TINY, "--seed", seed, "--json"]
                assert main(words) == 0
        before, newest = list_checkpoints(folder / "1" / "checkpoints")
        for file in sorted(newest.iterdir()):
            whole = file.read_bytes()
            other = (list_checkpoints(folder / "2" / "checkpoints")[-1] / file.name).read_bytes()
            damaged = [("flipped", flipped(whole, draw)) for _ in range(options.flips)]
            damaged += [("cut short", whole[: draw.randrange(len(whole))]) for _ in range(options.cuts)]
            damaged += [("swapped", other)]
            for kind, data in damaged:
                file.write_bytes(data)
                found[kind] += 1
                heard: list[str] = []
                checkpoint = load_newest(folder / "1" / "checkpoints", heard.append)
                step = checkpoint.state["clock"]["step"] if checkpoint else None
                found["LOST: damage that was not noticed"] += step == int(newest.name)
                # A state.json of another run is whole by itself: then it is the other files that do not fit it.
                named = newest.name if (kind, file.name) == ("swapped", "state.json") else str(file)
                found["LOST: refused without the file's name"] += not (heard and named in heard[0])
                found["LOST: the checkpoint before not used"] += step != int(before.name)
            file.write_bytes(whole)
            print(f"damage: {file.name}", file=sys.stderr, flush=True)
        shutil.rmtree(folder / "1")
    return found


def flipped(data: bytes, draw: random.Random) -> bytes:
    """With one byte that is another."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= draw.randrange(1, 256)
    return bytes(changed)
