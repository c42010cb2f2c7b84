"""python -m benchmarks NAME [--quick] [--json] ...: runs one benchmark."""

import importlib
import sys

NAMES = {
    "overhead": "what do the auxiliary library and its diagnosis cost, against terms written by hand?",
    "quality": "bits per character after equal seconds, against benchmarks/reference.py",
    "scale": "does a huge text train in the memory of a small one, and how soon?",
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print("usage: python -m benchmarks NAME [--quick] [--json]\n", file=sys.stderr)
        for name, question in NAMES.items():
            print(f"  {name:12} {question}", file=sys.stderr)
        return 2
    return importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
