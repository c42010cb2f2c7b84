"""`charladder refit`: fits drafting heads to the network of a run."""

from collections.abc import Iterator
from pathlib import Path

from charladder.cli.next_steps import command_after_refit
from charladder.cli.notes import print_text_notes
from charladder.cli.options import Parser, add_data_option, add_device_option, add_json_option, add_weights_option
from charladder.cli.progress import PlainLineTimer, percentage_bar, reading_progress
from charladder.cli.terminal import Terminal
from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.generation.speculative.fitting import FitConfig, FitProgress, fit
from charladder.generation.speculative.heads_file import HeadsMetadata, load_heads, save_heads
from charladder.run import Run, file_ends, open_data, open_run, run_lock, split_corpus
from charladder.strict_json import dumps
from charladder.text import Windows
from charladder.training.devices import choose_device, choose_precision
from charladder.training.tensor_files import file_digest


def make_parser() -> Parser:
    parser = Parser(
        "refit",
        "Fits heads that draft text to the network of RUN, on the text that it was trained on. The network does not "
        "change. The heads are saved in RUN/drafting.safetensors, and generate uses them.",
        "charladder refit runs/ladder-1 --minutes 2",
        "charladder refit runs/ladder-1 --fresh --layers 2,4 --ahead 8",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    fit = parser.add_argument_group("fit")
    fit.add_argument("--minutes", type=float, default=0.0, help="budget in minutes (default 2)")
    fit.add_argument("--steps", type=int, default=0, help="budget in steps (default: --minutes)")
    fit.add_argument("--ahead", type=int, default=5, help="characters drafted at once")
    fit.add_argument("--layers", metavar="L,L", help="intermediate layers that draft (default: a quarter of the depth)")
    fit.add_argument("--batch", type=int, default=8, help="windows of a step")
    fit.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    fit.add_argument("--seed", type=int, default=0, help="seed of windows and weights")
    fit.add_argument("--fresh", action="store_true", help="replace existing heads, which are otherwise trained further")
    network = parser.add_argument_group("network and text")
    add_weights_option(network)
    add_data_option(network)
    add_device_option(network)
    help_text = "dtype of matrix products"
    network.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help=help_text)
    add_json_option(network)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.minutes and options.steps:
        raise UserError("--minutes and --steps are both given; give one budget")
    if not 0 <= options.minutes < float("inf") or options.steps < 0:
        raise UserError("a budget is below 0; give --minutes or --steps above 0")
    if not 0 <= options.seed < 1 << 63:
        raise UserError(f"--seed is {options.seed}; it must be at least 0 and below 2^63")
    minutes = options.minutes or (0.0 if options.steps else 2.0)
    settings = FitConfig(options.steps, 60 * minutes, options.batch, options.ahead, options.rate)
    device = choose_device(options.device)
    run = open_run(Path(options.run), options.weights)
    layers, width = run.recipe.model.layers, run.recipe.model.width
    drafting_layers = _parse_layers(options.layers, layers)
    network = run.load_network()
    digest = file_digest(run.network_path)
    with run_lock(run.path), reading_progress() as report:
        corpus = open_data(run, report, options.moved)
        print_text_notes(corpus)
        windows = Windows(
            corpus.ids_N, split_corpus(run.recipe, corpus).train, run.recipe.model.context, options.ahead, options.seed,
            "random", file_ends(run.recipe, corpus),
        )  # fmt: skip
        existing = None if options.fresh else _load_existing_heads(run)
        heads, metadata = existing or (None, HeadsMetadata(digest, 0, 0))
        if heads is not None and options.layers is None:
            drafting_layers = tuple(sorted(map(int, heads.early_exit)))
        if heads is None or tuple(sorted(map(int, heads.early_exit))) != drafting_layers:
            trained = {} if heads is None else heads.state_dict()
            inner_width = width if heads is None else len(heads.chain.gate.weight)
            heads = DraftingHeads(width, corpus.alphabet.size, inner_width, (), drafting_layers)
            heads = heads.initialise_from(network, options.seed)
            state = heads.state_dict()
            heads.load_state_dict(state | {name: tensor for name, tensor in trained.items() if name in state})
        windows.load_state_dict({"examples": metadata.steps * options.batch})  # examples that were not read yet
        network, heads = network.to(device), heads.to(device)
        precision = choose_precision(options.precision, device)
        last, interrupted = _fit_with_progress(fit(network, heads, windows, settings, precision))
        metadata = HeadsMetadata(digest, metadata.steps + last.step, metadata.characters + last.characters)
        save_heads(run, heads, metadata)
    if interrupted:
        raise KeyboardInterrupt
    speed = last.characters / last.seconds
    facts = {
        "run": str(run.path), "steps": last.step, "seconds": last.seconds, "characters_per_second": speed,
        "bits": last.bits, "steps_in_all": metadata.steps, "layers": list(drafting_layers),
    }  # fmt: skip
    if options.json:
        print(dumps(facts))
        return 0
    console = Terminal()
    for name, bits in last.bits.items():
        console.print(f"  {name:10} {bits:.3f} bits from the predictions of the network", highlight=False)
    console.print(f"next: {command_after_refit(run.path)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _parse_layers(option: str | None, layer_count: int) -> tuple[int, ...]:
    """The layers that draft, in ascending order. Raises UserError for a number that is no intermediate layer."""
    if option is None:
        return (max(1, layer_count // 4),) if layer_count > 1 else ()
    try:
        numbers = sorted({int(number) for number in option.split(",") if number.strip()})
    except ValueError:
        raise UserError(f"--layers is {option!r}; give numbers of layers with commas between them, as 2,4") from None
    if numbers and layer_count == 1:
        raise UserError(f"--layers is {option!r}; the network has a single layer, and none below it")
    if any(not 1 <= number < layer_count for number in numbers):
        raise UserError(f"--layers is {option!r}; the network has the intermediate layers 1 to {layer_count - 1}")
    return tuple(numbers)


def _load_existing_heads(run: Run) -> tuple[DraftingHeads, HeadsMetadata] | None:
    """The heads to train further; None if there are none or they belong to another network."""
    try:
        return load_heads(run)
    except UserError:
        return None


def _fit_with_progress(steps: Iterator[FitProgress]) -> tuple[FitProgress, bool]:
    """Runs the steps and shows their progress. Returns the last step, and whether Ctrl-C ended the fit there."""
    console, timer, last = Terminal(stderr=True), PlainLineTimer(), None
    with percentage_bar(console, "fitting", 1.0) as update:
        while True:
            try:
                last = next(steps)
            except StopIteration:
                break
            except KeyboardInterrupt:
                if last is None:
                    raise
                return last, True
            bits = " ".join(f"{name}={value:.2f}" for name, value in last.bits.items())
            speed = f"{last.characters / last.seconds:,.0f} chars/s"
            update(last.progress, f"{speed}  {bits}")
            if not console.is_terminal and timer.is_due():
                console.print(f"step {last.step} {100 * last.progress:5.1f}% | {speed} | {bits}", highlight=False)
    assert last is not None
    return last, False
