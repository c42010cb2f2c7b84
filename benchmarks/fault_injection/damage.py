"""Damage to checkpoint files: flipped bytes, truncation, and files of another run.

Each damaged checkpoint must be rejected with the name of the file, and the checkpoint before it used.
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

from benchmarks.fault_injection.kills import SMALL_RUN, TEXT, use_cache
from charladder.cli.main import main
from charladder.training.checkpoint import list_checkpoints, load_newest


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts the damaged files, and failures (LOST), which must be 0."""
    rng = random.Random(options.seed)
    counts = {
        "flipped": 0, "cut short": 0, "swapped": 0, "LOST: damage that was not noticed": 0,
        "LOST: refused without the file's name": 0, "LOST: the checkpoint before not used": 0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        with (
            use_cache(folder / "cache"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            for seed in "12":
                arguments = ["train", str(folder / "text"), "--run", str(folder / seed), "--seed", seed, "--json"]
                assert main([*arguments, *SMALL_RUN]) == 0
        before, newest = list_checkpoints(folder / "1" / "checkpoints")
        for file in sorted(newest.iterdir()):
            content = file.read_bytes()
            other = (list_checkpoints(folder / "2" / "checkpoints")[-1] / file.name).read_bytes()
            damaged = [("flipped", flip_byte(content, rng)) for _ in range(options.flips)]
            damaged += [("cut short", content[: rng.randrange(len(content))]) for _ in range(options.cuts)]
            damaged += [("swapped", other)]
            for kind, data in damaged:
                file.write_bytes(data)
                counts[kind] += 1
                messages: list[str] = []
                checkpoint = load_newest(folder / "1" / "checkpoints", messages.append)
                step = checkpoint.state["clock"]["step"] if checkpoint else None
                counts["LOST: damage that was not noticed"] += step == int(newest.name)
                # A state.json of another run is valid by itself; then the other files do not match it.
                named = newest.name if (kind, file.name) == ("swapped", "state.json") else str(file)
                counts["LOST: refused without the file's name"] += not (messages and named in messages[0])
                counts["LOST: the checkpoint before not used"] += step != int(before.name)
            file.write_bytes(content)
            print(f"damage: {file.name}", file=sys.stderr, flush=True)
        shutil.rmtree(folder / "1")
    return counts


def flip_byte(data: bytes, rng: random.Random) -> bytes:
    """A copy of the data with one byte changed."""
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    return bytes(changed)
