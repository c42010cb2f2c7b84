"""The terminal, or whatever is in its place."""

from rich.console import Console


class Terminal(Console):
    """A rich console that leaves it to `main` what happens when whoever reads our output has gone."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
