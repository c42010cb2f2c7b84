"""`charladder import`: a run from a folder of transformers."""

from pathlib import Path

from charladder.cli.options import Parser, add_json_option
from charladder.errors import UserError
from charladder.export import import_hugging_face
from charladder.shell_words import quote_path
from charladder.strict_json import dumps


def make_parser() -> Parser:
    parser = Parser(
        "import",
        "Makes a run directory from DIR, a folder of Hugging Face's transformers as `charladder export` writes it, for "
        "example one that was trained further elsewhere. It evaluates, generates and serves; it has no training text "
        "and no auxiliary heads.",
        "charladder import ladder-hf",
        "charladder import ladder-hf --run runs/tuned",
    )
    parser.add_argument("folder", metavar="DIR", help="a folder with config.json, tokenizer.json, model.safetensors")
    parser.add_argument("--run", metavar="RUN", help="the new run directory (default: runs/imported-N)")
    add_json_option(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.folder == "":
        raise UserError("DIR is an empty name; give a folder")
    run = import_hugging_face(Path(options.folder), None if options.run is None else Path(options.run))
    model, alphabet = run.recipe.model, run.alphabet
    if options.json:
        facts = {
            "run": str(run.path), "layers": model.layers, "width": model.width, "context": model.context,
            "alphabet": run.recipe.text.alphabet, "symbols": alphabet.size,
        }  # fmt: skip
        print(dumps(facts))
        return 0
    print(f"{run.path}: {model.layers} layers of {model.width}, context {model.context}, {alphabet.size} symbols")
    print(f"next: charladder generate {quote_path(run.path)} --length 400")
    return 0
