"""python -m benchmarks NAME [--quick] [--json] ...: runs one benchmark."""

import importlib
import sys

NAMES = {
    "auxiliary_cost": "what do all auxiliary losses of T64 cost, against the last layer alone?",
    "depth": "is deep slow? 64 layers of 128 against 12 of 320",
    "evaluation": "how do bits per character depend on the stride, and what does each cost?",
    "faults": "is anything lost, whatever goes wrong?",
    "generation": "how fast is text written, alone and with drafts, against peers with the same weights?",
    "gpu": "how well do the paper's networks use a GPU, with all their losses?",
    "growth": "do speed, memory and start-up stay as they are when the text grows?",
    "overhead": "what do the auxiliary library and its diagnosis cost, against terms written by hand?",
    "passes": "how fast is a pass of generation, against what this machine multiplies and reads?",
    "precision": "what does bfloat16 cost in bits per character, and what does it save in time?",
    "quality": "bits per character after equal seconds, against benchmarks/reference.py",
    "serving": "what does a service write for many clients at once, and what do they leave that vanish?",
    "throughput": "how fast is a training step, against peers of the same architecture?",
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print("usage: python -m benchmarks NAME [--quick] [--json]\n", file=sys.stderr)
        for name, question in NAMES.items():
            print(f"  {name:15} {question}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
