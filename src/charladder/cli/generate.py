"""`charladder generate`: generates text with a run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from charladder.cli.notes import print_note
from charladder.cli.options import Parser, add_context_option, add_device_option, add_json_option, add_weights_option
from charladder.cli.prompts import choose_encoding, encode_argument, read_prompt_file, read_prompts
from charladder.cli.scoring import check_context
from charladder.cli.terminal import write_bytes
from charladder.errors import UserError
from charladder.generation import SamplingParams
from charladder.generation.speculative.factory import DrafterName
from charladder.generation.text_generator import GeneratedText, GenerationConfig, Prompt, TextGenerator
from charladder.run import Run, open_run
from charladder.strict_json import dumps
from charladder.text import UNKNOWN_POLICIES

_MAX_SAMPLES = 1 << 16


def make_parser() -> Parser:
    parser = Parser(
        "generate",
        "Writes text with RUN, a run directory. Past the context, the last half of it is kept.",
        "charladder generate runs/ladder-1 --prompt 'def ' --length 400 --temperature 0.8",
        "charladder generate runs/ladder-1 --prompts prompts.jsonl --stop . --together 64",
    )
    parser.add_argument("run", metavar="RUN", help=argparse.SUPPRESS)
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument("--prompt", help="the text to continue (default: none)")
    prompts.add_argument("--prompt-file", metavar="FILE", help="a file that is the prompt; - is standard input")
    help_text = "JSON lines: strings, or objects (prompt, seed, length, stop, id)"
    prompts.add_argument("--prompts", metavar="FILE", help=help_text)
    prompts.add_argument("--samples", type=int, default=1, help="texts for each prompt")
    prompts.add_argument("--encoding", metavar="NAME", help="of RUN's bytes, and of --prompt-file (default utf-8)")
    prompts.add_argument("--unknown", choices=UNKNOWN_POLICIES, help="letters of the prompt outside the alphabet")
    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--length", type=int, default=400, help="characters to write")
    sampling.add_argument("--stop", action="append", default=[], help="text that ends the output; repeatable")
    sampling.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    sampling.add_argument("--top-k", type=int, default=0, help="only the K most probable characters; 0: all")
    sampling.add_argument("--top-p", type=float, default=1.0, help="only the most probable, up to a total of P")
    sampling.add_argument("--min-p", type=float, default=0.0, help="only those at least P times the most probable")
    sampling.add_argument("--seed", type=int, default=0, help="the same seed writes the same text")
    speed = parser.add_argument_group("network and speed")
    add_context_option(speed)
    help_text = "drafter; auto is the fastest here"
    speed.add_argument("--draft", choices=get_args(DrafterName), default="auto", help=help_text)
    speed.add_argument("--draft-length", type=int, help="characters drafted at once (default: by drafter)")
    help_text = "dtype of weights, keys and values"
    speed.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=help_text)
    speed.add_argument("--together", type=int, default=16, help="prompts in one batch")
    add_weights_option(speed)
    add_device_option(speed)
    output = parser.add_argument_group("output")
    output.add_argument("--raw", action="store_true", help="only the bytes of the prompt and the text")
    help_text = "of every character, in nats (with --json or --prompts)"
    output.add_argument("--log-probabilities", action="store_true", help=help_text)
    add_json_option(output)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    _check_options(options)
    run = open_run(Path(options.run), options.weights)
    encoding = choose_encoding(run, options.encoding, options.prompt_file is not None)
    settings = GenerationConfig(
        options.length, SamplingParams(options.temperature, options.top_k, options.top_p, options.min_p), options.seed,
        tuple(encode_argument(stop, encoding, "--stop") for stop in options.stop), options.context, options.draft,
        options.draft_length, options.precision, options.device, options.unknown, options.together, encoding,
    )  # fmt: skip
    lines = [] if options.prompts is None else read_prompts(options.prompts, encoding)
    prompt = _read_prompt(options, run, encoding)
    check_context(run, run.recipe.model.context if options.context is None else options.context)
    model = TextGenerator(run, settings, print_note)
    if options.prompts is not None:
        return _write_json_lines(model, lines, options.samples, options.log_probabilities)
    if options.raw:
        return _write_raw(model, prompt)
    if options.samples > 1:
        return _write_samples(model, prompt, options.samples, options.json, options.log_probabilities)
    return _write_text(model, prompt, options.json, options.log_probabilities)


def _check_options(options: argparse.Namespace) -> None:
    """Raises UserError for options that exclude each other."""
    if options.prompts is not None and (options.prompt is not None or options.json):
        raise UserError("--prompts has the prompts and writes JSON lines; leave --prompt and --json out")
    if options.prompt_file is not None and (options.prompt is not None or options.prompts is not None):
        raise UserError("--prompt-file is the prompt; leave --prompt and --prompts out")
    if options.log_probabilities and not (options.json or options.prompts):
        raise UserError("--log-probabilities go into JSON; add --json, or give --prompts")
    if not 1 <= options.samples <= _MAX_SAMPLES:
        raise UserError(f"--samples is {options.samples}; it must be between 1 and {_MAX_SAMPLES:,} texts")
    if options.raw and (options.json or options.prompts is not None or options.samples > 1):
        raise UserError("--raw writes the bytes of one text; leave --json, --prompts and --samples out")


def _read_prompt(options: argparse.Namespace, run: Run, encoding: str) -> Prompt:
    """The prompt of --prompt or --prompt-file; empty without either."""
    if options.prompt_file is not None:
        return read_prompt_file(options.prompt_file, run, options.encoding)
    return Prompt(encode_argument(options.prompt or "", encoding, "the prompt"))


def _write_text(model: TextGenerator, prompt: Prompt, as_json: bool, log_probabilities: bool) -> int:
    out = sys.stderr if as_json else sys.stdout
    last, text = None, ""
    for stream, piece in model.stream_with_state(prompt):
        if last is None:
            print(_decode_prompt(model, prompt), end="", file=out)
        last = stream
        text += piece
        out.write(piece)
        out.flush()
    assert last is not None
    print(file=out)
    if as_json:
        written = GeneratedText(text, last.ids, last.nats, last.finish_reason or "")
        print(dumps(_text_entries(written, log_probabilities) | _speed_entries(model, written.characters)))
    return 0


def _write_raw(model: TextGenerator, prompt: Prompt) -> int:
    num_written, prompt_written = 0, False
    for stream, _ in model.stream_with_state(prompt):
        if not prompt_written:
            write_bytes(prompt.data)
        write_bytes(model.run.alphabet.decode(np.array(stream.ids[num_written : stream.safe_length], np.int64)))
        num_written, prompt_written = stream.safe_length, True
    return 0


def _write_samples(model: TextGenerator, prompt: Prompt, samples: int, as_json: bool, log_probabilities: bool) -> int:
    out, texts = sys.stderr if as_json else sys.stdout, []
    for number, text in enumerate(model.generate([prompt], samples), 1):
        print(f"--- {number} of {samples} ---\n{_decode_prompt(model, prompt)}{text.text}", file=out, flush=True)
        texts.append(text)
    if as_json:
        rows = [_text_entries(text, log_probabilities) for text in texts]
        characters = sum(text.characters for text in texts)
        print(dumps({"samples": rows, "characters": characters} | _speed_entries(model, characters)))
    return 0


def _decode_prompt(model: TextGenerator, prompt: Prompt) -> str:
    return model.make_decoder().decode(prompt.data, final=True)


def _text_entries(text: GeneratedText, log_probabilities: bool) -> dict[str, Any]:
    facts = {"text": text.text, "ids": text.ids, "characters": text.characters, "finish": text.finish_reason}
    return facts | ({"log_probabilities": text.nats} if log_probabilities else {})


def _speed_entries(model: TextGenerator, characters: int) -> dict[str, Any]:
    return {
        "seconds": model.seconds,
        "characters_per_second": characters / model.seconds if model.seconds else 0.0,
        "draft": model.draft,
        "accepted_per_pass": model.accepted_per_pass,
        "milliseconds_per_pass": 1000 * model.pass_seconds / model.passes if model.passes else 0.0,
    }


def _write_json_lines(
    model: TextGenerator, lines: Sequence[tuple[dict[str, Any], Prompt]], samples: int, log_probabilities: bool
) -> int:
    characters, texts = 0, model.generate([prompt for _, prompt in lines], samples)
    for fields, _ in lines:
        for sample in range(samples):
            text = next(texts)
            characters += text.characters
            which = {"sample": sample} if samples > 1 else {}
            print(dumps(fields | which | _text_entries(text, log_probabilities)), flush=True)
    speed = _speed_entries(model, characters)
    print(
        f"{len(lines):,} prompts, {characters:,} characters, {speed['characters_per_second']:,.0f} chars/s, "
        f"{speed['accepted_per_pass']:.2f} a pass, draft {speed['draft']}", file=sys.stderr
    )  # fmt: skip
    return 0
