"""What a person sees while a network trains: a live panel on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from charladder.cli.tables import Rows, flow
from charladder.training import Event, Saved, Skipped, Slow, Stepped, Trainer, Unrecorded, Validated

PLAIN_SECONDS = 10.0
ROWS = 12
BAR = 40  # columns of the progress bar, where there is room


class TrainingProgress:
    """A context manager; `show` takes the events of the training loop."""

    def __init__(self, console: Console, trainer: Trainer) -> None:
        self.console, self.trainer = console, trainer
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None
        self.bits, self.seen = 0.0, 0
        self.valid: float | None = None
        self.line: dict = {}
        self.printed = -PLAIN_SECONDS
        self.first: dict | None = None  # the line of the first step; the pace is measured from its end
        self.begin = 0.0  # the progress then
        self.ascii = not (console.encoding or "").lower().startswith("utf")

    def __enter__(self) -> "TrainingProgress":
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def show(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.line = event.line
            if self.first is None:
                self.first, self.begin = event.line, self.trainer.progress
            main = event.line["terms"]["main"]["bits"]
            self.seen += 1
            share = max(0.1, 1 / self.seen)  # a plain mean at first, then one that forgets
            self.bits = (1 - share) * self.bits + share * main
            if self.live:
                self.live.update(self.panel())
            elif time.monotonic() - self.printed > PLAIN_SECONDS:
                self.printed = time.monotonic()
                self.console.print(self.plain(), highlight=False, markup=False, soft_wrap=True)
        elif isinstance(event, Skipped):
            self.console.print(f"step {event.step} was left out: {event.reason}", highlight=False, markup=False)
        elif isinstance(event, Slow):
            self.console.print(
                f"step {event.step} took {event.seconds:.1f} s, {event.seconds / event.usual:.0f} times the usual "
                f"{event.usual:.3f}; is something else at work on this machine?", highlight=False
            )  # fmt: skip
        elif isinstance(event, Unrecorded):
            self.console.print(
                f"steps cannot be replayed as CUDA graphs here, and go on without: {event.reason}", highlight=False,
                markup=False
            )  # fmt: skip
        elif isinstance(event, Validated):
            self.valid = event.bits_per_character
            if not self.live:
                self.console.print(f"valid (a stretch): {self.valid:.3f} bits per character", highlight=False)
        elif isinstance(event, Saved) and not self.live:
            self.console.print(f"checkpoint {event.path}", highlight=False, markup=False, soft_wrap=True)

    def speed(self) -> str:
        """Characters a second since the first step, which compiles and warms up and would count for far too much."""
        assert self.first is not None
        spent = self.line["seconds"] - self.first["seconds"]
        return f"{(self.line['characters'] - self.first['characters']) / spent:,.0f}" if spent > 0 else "?"

    def left(self) -> str:
        """Time left: what a budget of minutes still has, or by the pace since the first step."""
        progress, seconds, settings = self.trainer.progress, self.line["seconds"], self.trainer.settings
        if settings.minutes:
            left = 60 * settings.minutes - seconds
        elif self.first is not None and progress > self.begin:
            left = (seconds - self.first["seconds"]) * (1 - progress) / (progress - self.begin)
        else:
            return "?"
        minutes, rest = divmod(max(0, round(left)), 60)
        return f"{minutes}:{rest:02d}"

    def layer_marks(self) -> str:
        """One mark a layer: whether it still contributes to the loss."""
        layers = self.trainer.network.settings.layers
        on, off = ("#", ".") if self.ascii else ("■", "·")
        names = self.line["terms"]
        return "".join(on if r == layers or f"layer{r}.target1" in names else off for r in range(1, layers + 1))

    def plain(self) -> str:
        terms = self.line["terms"]
        shown = " ".join(f"{name}={term['bits']:.3f}" for name, term in list(terms.items())[-ROWS:])
        return (
            f"step {self.line['step']} {self.trainer.progress:6.1%} | {self.bits:.3f} bits/char | "
            f"{self.speed()} chars/s | passes {self.trainer.windows.passes:.2f} | layers {self.layer_marks()} | "
            f"left {self.left()} | {shown}"
        )

    def panel(self) -> Group:
        progress = self.trainer.progress
        facts = [
            Text.assemble((f"{name} ", "dim"), value)
            for name, value in (
                ("bits/char", (f"{self.bits:.3f}", "bold")),
                ("valid", (f"{self.valid:.3f}" if self.valid else "-", "bold")),
                ("chars/s", self.speed()),
                ("step", f"{self.line['step']:,}"),
                ("passes", f"{self.trainer.windows.passes:.2f}"),
                ("left", self.left()),
            )
        ]
        width, marks = self.console.width, self.layer_marks()
        length = max(10, min(BAR, width - 10))
        part = round(length * progress)
        bar = Text("#" * part + "-" * (length - part)) if self.ascii else ProgressBar(1, progress, width=length)
        above = Table.grid(padding=(0, 1))
        layers = Text.assemble(("layers ", "dim"), marks)
        beside = width >= 2 + length + 8 + layers.cell_len
        above.add_row("  ", bar, f"{progress:.0%}", *[layers] * beside)
        names = list(self.line["terms"].items())
        terms = Rows("term", "bits", "weight", "share")
        for name, term in reversed(names[-ROWS:]):
            terms.add(name, f"{term['bits']:.3f}", f"{term['weight']:.3g}", f"{term['share']:.3f}")
        below = [] if beside else [Padding(layers, (0, 0, 0, 2))]
        more = [Text(f"  and {len(names) - ROWS} more")] if len(names) > ROWS else []
        told = [flow(facts, "   ", width - 2), terms]
        return Group(above, *below, *(Padding(one, (0, 0, 0, 2)) for one in told), *more)
