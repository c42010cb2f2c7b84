"""The command `python -m benchmarks NAME [--quick] [--json] ...`, which runs one benchmark or one tool for results."""

import importlib
import sys

from charladder.cli.error_message import format_error
from charladder.cli.signals import INTERRUPTED_EXIT_CODE
from charladder.cli.terminal import print_message
from charladder.errors import UserError

NAMES = {
    "auxiliary_cost": "what do all auxiliary losses of T64 cost, compared with the last layer alone?",
    "compression": "how small do files become, and how fast, against xz, zstd, bzip2 and ppmd?",
    "depth": "is a deep network slow? 64 layers of width 128 against 12 of width 320",
    "exports": "do exported networks compute what the run computes, in transformers and in llama.cpp?",
    "evaluation": "how do bits per character and evaluation time depend on the stride?",
    "faults": "is data lost after kills, damaged files, invalid input or a long run?",
    "generation": "how fast is text generation, with and without drafts, against peers with the same weights?",
    "gpu": "which share of a GPU's speed do the paper's networks reach, with all their losses?",
    "growth": "do speed, memory and start-up time depend on the size of the text?",
    "overhead": "what do the auxiliary library and its diagnosis cost, compared with hand-written terms?",
    "passes": "how fast is a generation pass, compared with the limits of this machine?",
    "precision": "how does bfloat16 change bits per character and speed?",
    "quality": "bits per character after equal training time, against benchmarks/reference.py",
    "reference_sweep": "which shape, window and learning rates are best for benchmarks/reference.py?",
    "scoring": "how fast does `score` read a log line by line, and does its memory depend on the size?",
    "serving": "how much does the service generate for many clients, and do disconnected clients leak memory?",
    "speedrun": "bits per character of the test part of text8-prefix after 300 or 60 seconds, by five seeds",
    "throughput": "how fast is a training step, against peers of the same architecture?",
}
TABLES = {
    "arms": "prints the bits of every run in such a table, by arm, as Markdown",
    "collect": "keeps the runs of a study: a row for each in benchmarks/results/NAME.csv",
    "forest": "draws a forest plot from these tables, and prints its numbers as Markdown",
    "norms": "draws gradient norms by layer from these tables, and prints them as Markdown",
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES | TABLES:
        print("usage: python -m benchmarks NAME [--quick] [--json]\n", file=sys.stderr)
        for name, question in NAMES.items():
            print(f"  {name:15} {question}", file=sys.stderr)
        print("\nand, for the results of studies:\n", file=sys.stderr)
        for name, purpose in TABLES.items():
            print(f"  {name:15} {purpose}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    except UserError as error:
        print_message(format_error(error))
        return 2
    except OSError as error:
        if sys.argv[1] not in TABLES:  # a benchmark starts programs, and the traceback says which one
            raise
        print_message(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        return 2
    except KeyboardInterrupt:
        print_message("interrupted")
        return INTERRUPTED_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
