"""`charladder export`: the network of a run for other programs."""

import argparse
import sys
from pathlib import Path

from charladder.cli.notes import print_note
from charladder.cli.options import Parser, add_json_option, add_weights_option
from charladder.errors import UserError
from charladder.export import PRECISIONS, export_gguf, export_hugging_face
from charladder.run import Run, open_run
from charladder.shell_words import quote_path
from charladder.strict_json import dumps


def make_parser() -> Parser:
    parser = Parser(
        "export",
        "Writes the network of RUN, a run directory, for other programs: a folder for Hugging Face's transformers, or "
        "a GGUF file for llama.cpp. It must have the layout of Qwen3, as networks of the recipe ladder do.",
        "charladder export runs/ladder-1 --to hf",
        "charladder export runs/ladder-1 --to gguf ladder.gguf --precision bfloat16",
    )
    parser.add_argument("run", metavar="RUN", help=argparse.SUPPRESS)
    parser.add_argument("path", metavar="PATH", nargs="?", help="new folder or file (default: RUN-hf or RUN.gguf)")
    network = parser.add_argument_group("network")
    network.add_argument("--to", choices=("hf", "gguf"), required=True, help="transformers or llama.cpp")
    help_text = "of the weights; bfloat16 rounds them"
    network.add_argument("--precision", choices=PRECISIONS, default="float32", help=help_text)
    add_weights_option(network)
    help_text = "write the auxiliary heads too, as heads.safetensors (only hf)"
    network.add_argument("--heads", action="store_true", help=help_text)
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.path == "":
        raise UserError("PATH is an empty name; give a new folder or file, or leave it out")
    if options.heads and options.to == "gguf":
        raise UserError("--heads is for --to hf, because llama.cpp has no use for auxiliary heads; leave it out")
    run = open_run(Path(options.run), options.weights)
    path = _default_path(run, options.to) if options.path is None else Path(options.path)
    if options.to == "hf":
        parameters = export_hugging_face(run, path, options.precision, options.heads)
    else:
        parameters = export_gguf(run, path, options.precision)
    _print_alphabet_notes(run, options.to)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if options.json:
        facts = {
            "run": str(run.path), "to": options.to, "path": str(path), "precision": options.precision,
            "weights": run.weights, "parameters": parameters, "bytes": size, "files": [file.name for file in files],
        }  # fmt: skip
        print(dumps(facts))
        return 0
    print(f"{path}: {parameters:,} parameters in {options.precision}, {size:,} bytes", file=sys.stderr)
    if options.to == "hf":
        print(f"{path / 'README.md'} has an example in Python, and a licence to fill in")
        print(f"next: charladder import {quote_path(path)}  # a run again, also after training elsewhere")
    else:
        print(f"next: llama-server --model {quote_path(path)} --cache-type-k f32 --cache-type-v f32")
    return 0


def _default_path(run: Run, to: str) -> Path:
    """Beside the run directory, with its name."""
    beside = run.path if run.path.name not in ("", "..") else run.path.resolve()
    return beside.with_name(f"{beside.name}{'-hf' if to == 'hf' else '.gguf'}")


def _print_alphabet_notes(run: Run, to: str) -> None:
    """What the format cannot say of an alphabet of letters."""
    if to == "gguf" and not run.alphabet.letters.isascii():
        print_note(
            "llama.cpp does not answer a text prompt with a letter outside the alphabet that begins with the same byte "
            "as a letter of it; check prompts, or send them as ids"
        )
