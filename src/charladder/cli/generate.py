"""charladder generate"""

import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

from charladder.cli.options import Parser
from charladder.cli.scoring import check_context
from charladder.errors import BadInput
from charladder.generation import Sampling
from charladder.generation.choosing import Draft
from charladder.generation.text import TextModel, TextSettings
from charladder.run import open_run
from charladder.text import POLICIES

LARGEST = 1 << 26  # bytes of a line of prompts


def main(argv: list[str]) -> int:
    parser = Parser(
        "generate",
        "Writes text with RUN, streaming as it goes. Past the context the last C/2 characters are kept.\n"
        "With --prompts, one text for each line of a file: a JSON string, or an object with `prompt`; what is written\n"
        "is a line of JSON for each, in their order.",
        "charladder generate runs/ladder-1 --prompt 'def ' --length 400 --temperature 0.8",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--prompt", help="text to go on from (default: none)")
    parser.add_argument("--prompts", metavar="FILE", help="many prompts, a line of JSON each; - is standard input")
    parser.add_argument("--length", type=int, default=400, metavar="N", help="characters to write (default 400)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be repeated")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="only the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the likeliest that make up P")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="only those at least P times the best")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default 0)")
    parser.add_argument("--context", type=int, metavar="C", help="characters of context (default: as trained)")
    parser.add_argument("--unknown", choices=POLICIES, help="letters of the prompt outside the alphabet")
    parser.add_argument(
        "--draft", choices=get_args(Draft), default="auto",
        help="what proposes characters for the network to verify; the text is distributed as without. auto (default) "
        "measures what pays here and now, and writes what none writes from the same seed",
    )  # fmt: skip
    parser.add_argument(
        "--draft-length", type=int, metavar="N", help="characters proposed at once (default: by drafter)"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of weights, keys and values"
    )
    parser.add_argument("--log-probabilities", action="store_true", help="of each character, in nats (with JSON)")
    parser.add_argument("--together", type=int, default=16, metavar="N", help="prompts written at once (default 16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.read(argv)
    if options.prompts is not None and (options.prompt is not None or options.json):
        raise BadInput("--prompts has prompts and writes JSON lines by itself; leave --prompt and --json out")
    if options.log_probabilities and not (options.json or options.prompts):
        raise BadInput("--log-probabilities go into JSON; add --json, or give --prompts")
    settings = TextSettings(
        options.length, Sampling(options.temperature, options.top_k, options.top_p, options.min_p), options.seed,
        tuple(map(os.fsencode, options.stop)), options.context, options.draft, options.draft_length, options.precision,
        options.device, options.unknown, options.together,
    )  # fmt: skip
    lines = [] if options.prompts is None else read_prompts(options.prompts)
    run = open_run(Path(options.run))
    check_context(run, run.recipe.model.context if options.context is None else options.context)
    model = TextModel(run, settings, lambda sentence: print(f"note: {sentence}", file=sys.stderr))
    if options.prompts is not None:
        return write_lines(model, lines, options.log_probabilities)
    return write_one(model, options.prompt or "", options.json, options.log_probabilities)


def write_one(model: TextModel, prompt: str, as_json: bool, log_probabilities: bool) -> int:
    out = sys.stderr if as_json else sys.stdout
    last, text = None, ""
    for stream, piece in model.progress(os.fsencode(prompt)):
        if last is None:
            print(prompt, end="", file=out)
        last = stream
        text += piece
        out.write(piece)
        out.flush()
    assert last is not None
    print(file=out)
    if as_json:
        facts = {"text": text, "characters": len(last.ids), "finish": last.finish} | speeds(model, len(last.ids))
        print(json.dumps(facts | ({"log_probabilities": last.nats} if log_probabilities else {})))
    return 0


def speeds(model: TextModel, characters: int) -> dict[str, Any]:
    return {
        "seconds": model.seconds,
        "characters_per_second": characters / model.seconds if model.seconds else 0.0,
        "draft": model.draft,
        "accepted_per_pass": model.accepted_per_pass,
        "milliseconds_per_pass": 1000 * model.pass_seconds / model.passes if model.passes else 0.0,
    }


def write_lines(model: TextModel, lines: list[dict[str, Any]], log_probabilities: bool) -> int:
    characters = 0
    prompts = [line["prompt"].encode() for line in lines]
    for line, text in zip(lines, model.texts(prompts), strict=True):
        characters += text.characters
        facts = {"text": text.text, "characters": text.characters, "finish": text.finish}
        more = {"log_probabilities": text.nats} if log_probabilities else {}
        print(json.dumps(line | facts | more), flush=True)
    speed = speeds(model, characters)
    print(
        f"{len(lines):,} prompts, {characters:,} characters, {speed['characters_per_second']:,.0f} chars/s, "
        f"{speed['accepted_per_pass']:.2f} a pass, draft {speed['draft']}", file=sys.stderr
    )  # fmt: skip
    return 0


def read_prompts(name: str) -> list[dict[str, Any]]:
    """Objects with `prompt`, one a line. Raises BadInput that names the line."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise BadInput(f"--prompts {name} cannot be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line) if len(line) < LARGEST else None
        except (ValueError, RecursionError):
            value = None
        prompt = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            raise BadInput(f"{name}, line {number}: not a JSON string, or an object with the string `prompt`")
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{name}, line {number}: the prompt has half a surrogate pair, which is no text") from None
        found.append(dict(value) if isinstance(value, dict) else {"prompt": prompt})
    if not found:
        raise BadInput(f"--prompts {name} has no prompts; give a line of JSON for each")
    return found
