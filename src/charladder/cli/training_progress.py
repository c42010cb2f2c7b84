"""The display of training: a live panel on a terminal, plain lines elsewhere."""

from rich.console import Console, Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from charladder.cli.progress import LiveDisplay, PlainLineTimer, format_time_left
from charladder.cli.tables import AdaptiveTable, join_wrapped
from charladder.training import (
    CaptureFailed,
    CheckpointSaved,
    Event,
    SlowStep,
    StepCompleted,
    StepSkipped,
    Trainer,
    ValidationCompleted,
)

_MAX_TERMS = 12
_MAX_BAR_COLUMNS = 40


class TrainingProgress(LiveDisplay):
    """A context manager that shows the events of the training loop.

    scored: which characters a validation scores, as `format_part` returns it.
    """

    def __init__(self, console: Console, trainer: Trainer, scored: str = "") -> None:
        super().__init__(console, refresh_per_second=4)
        self.trainer, self.scored = trainer, scored
        self._smoothed_bits, self._steps_seen = 0.0, 0
        self._valid_bits: float | None = None
        self._line: dict = {}
        self._timer = PlainLineTimer(immediate=True)
        self._first_line: dict | None = None  # the speed is measured from its end
        self._first_progress = 0.0
        self._ascii_only = not (console.encoding or "").lower().startswith("utf")

    def show(self, event: Event) -> None:
        if isinstance(event, StepCompleted):
            self._line = event.line
            if self._first_line is None:
                self._first_line, self._first_progress = event.line, self.trainer.progress
            main = event.line["terms"]["main"]["bits"]
            self._steps_seen += 1
            share = max(0.1, 1 / self._steps_seen)  # a mean at first, then an exponential moving average
            self._smoothed_bits = (1 - share) * self._smoothed_bits + share * main
            if self.live:
                self.live.update(self.panel())
            elif self._timer.is_due():
                self.console.print(self.plain_line(), highlight=False, markup=False, soft_wrap=True)
        elif isinstance(event, StepSkipped):
            self.console.print(f"step {event.step} was left out: {event.reason}", highlight=False, markup=False)
        elif isinstance(event, SlowStep):
            self.console.print(
                f"step {event.step} took {event.seconds:.1f} s, {event.seconds / event.median_seconds:.0f} times the "
                f"usual {event.median_seconds:.3f}; is something else at work on this machine?", highlight=False
            )  # fmt: skip
        elif isinstance(event, CaptureFailed):
            self.console.print(
                f"steps cannot be captured as CUDA graphs here, and run eagerly: {event.reason}", highlight=False,
                markup=False
            )  # fmt: skip
        elif isinstance(event, ValidationCompleted):
            self._valid_bits = event.bits_per_character
            if not self.live:
                self.console.print(f"valid: {self._valid_bits:.3f} bits per character{self.scored}", highlight=False)
        elif isinstance(event, CheckpointSaved) and not self.live:
            self.console.print(f"checkpoint {event.path}", highlight=False, markup=False, soft_wrap=True)

    def _characters_per_second(self) -> str:
        """Characters per second since the end of the first step, which compiles and warms up."""
        assert self._first_line is not None
        spent = self._line["seconds"] - self._first_line["seconds"]
        return f"{(self._line['characters'] - self._first_line['characters']) / spent:,.0f}" if spent > 0 else "?"

    def _time_left(self) -> str:
        """Time left: the rest of a budget in minutes, else an estimate from the speed since the first step."""
        progress, seconds, settings = self.trainer.progress, self._line["seconds"], self.trainer.settings
        if settings.minutes:
            left = 60 * settings.minutes - seconds
        elif self._first_line is not None and progress > self._first_progress:
            left = (seconds - self._first_line["seconds"]) * (1 - progress) / (progress - self._first_progress)
        else:
            return "?"
        return format_time_left(left)

    def _layer_marks(self) -> str:
        """One mark for each layer: whether it contributes to the loss."""
        layers = self.trainer.network.settings.layers
        on, off = ("#", ".") if self._ascii_only else ("■", "·")
        names = self._line["terms"]
        return "".join(on if r == layers or f"layer{r}.target1" in names else off for r in range(1, layers + 1))

    def plain_line(self) -> str:
        terms = self._line["terms"]
        shown = " ".join(f"{name}={term['bits']:.3f}" for name, term in list(terms.items())[-_MAX_TERMS:])
        return (
            f"step {self._line['step']} {self.trainer.progress:6.1%} | {self._smoothed_bits:.3f} bits/char | "
            f"{self._characters_per_second()} chars/s | passes {self.trainer.windows.passes:.2f} | layers "
            f"{self._layer_marks()} | "
            f"left {self._time_left()} | {shown}"
        )

    def panel(self) -> Group:
        progress = self.trainer.progress
        facts = [
            Text.assemble((f"{name} ", "dim"), value)
            for name, value in (
                ("bits/char", (f"{self._smoothed_bits:.3f}", "bold")),
                ("valid", (f"{self._valid_bits:.3f}" if self._valid_bits else "-", "bold")),
                ("chars/s", self._characters_per_second()),
                ("step", f"{self._line['step']:,}"),
                ("passes", f"{self.trainer.windows.passes:.2f}"),
                ("left", self._time_left()),
            )
        ]
        width, marks = self.console.width, self._layer_marks()
        length = max(10, min(_MAX_BAR_COLUMNS, width - 10))
        filled = round(length * progress)
        bar = (
            Text("#" * filled + "-" * (length - filled)) if self._ascii_only else ProgressBar(1, progress, width=length)
        )
        bar_row = Table.grid(padding=(0, 1))
        layers = Text.assemble(("layers ", "dim"), marks)
        layers_fit = width >= 2 + length + 8 + layers.cell_len
        bar_row.add_row("  ", bar, f"{progress:.0%}", *[layers] * layers_fit)
        names = list(self._line["terms"].items())
        terms = AdaptiveTable("term", "bits", "weight", "share")
        for name, term in reversed(names[-_MAX_TERMS:]):
            terms.add_row(name, f"{term['bits']:.3f}", f"{term['weight']:.3g}", f"{term['share']:.3f}")
        layers_row = [] if layers_fit else [Padding(layers, (0, 0, 0, 2))]
        omitted = [Text(f"  and {len(names) - _MAX_TERMS} more")] if len(names) > _MAX_TERMS else []
        body = [join_wrapped(facts, "   ", width - 2), terms]
        return Group(bar_row, *layers_row, *(Padding(part, (0, 0, 0, 2)) for part in body), *omitted)
