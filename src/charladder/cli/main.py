"""The command `charladder COMMAND ...`: dispatch, exit codes, and errors as one sentence."""

import atexit
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

from charladder import __version__
from charladder.cli.commands import ALIASES, COMMANDS, GROUPS, load_command
from charladder.cli.error_message import format_error
from charladder.cli.signals import INTERRUPTED_EXIT_CODE
from charladder.cli.terminal import discard_output, print_message
from charladder.errors import DamagedDataWarning, UserError, is_lost_rank, is_out_of_memory, suggest_names

_LISTING = "\n\n".join(
    "\n".join([f"{title}:", *(f"  {name:12}{description}" for name, description in group.items())])
    for title, group in GROUPS.items()
)
_HELP = f"""charladder {__version__}: character-level language models, trained with auxiliary losses

usage: charladder COMMAND [options]

{_LISTING}

charladder COMMAND --help shows the options of a command, with examples.
To begin: charladder train --minutes 2
"""


def command() -> NoReturn:
    """Runs one command and exits with its code.

    A process of torchrun skips the finalization of Python: a thread of gloo that asks for the interpreter lock during
    finalization aborts the process.
    """
    code = main()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 training failed, 2 user error, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # ? for a character that the terminal cannot show
    try:
        with _print_warnings_as_notes():
            code = _run_command(argv)
        try:
            sys.stdout.flush()  # here: at exit, errors could not be handled
        except BrokenPipeError:
            discard_output(sys.stdout)
        return code
    except UserError as error:
        print_message(format_error(error))
        return 2
    except KeyboardInterrupt:
        print_message("interrupted")
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        discard_output(sys.stdout)  # the reader has closed the pipe, as `| head` does
        return 0
    except (MemoryError, RuntimeError) as error:
        if is_lost_rank(error):
            print_message("another process of this job has ended or cannot be reached; see its messages above")
            discard_output(sys.stdout)
            return 1
        if not is_out_of_memory(error):
            raise
        print_message("there is not enough memory for this; use a smaller network, batch or context")
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_message(f"{where}{error.strerror or error}")
        discard_output(sys.stdout)
        return 2


@contextlib.contextmanager
def _print_warnings_as_notes() -> Iterator[None]:
    """Prints every DamagedDataWarning as a note, and equal ones once."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        original = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if not issubclass(category, DamagedDataWarning):
                original(message, category, *rest)
            elif str(message) not in printed:
                printed.add(str(message))
                print_message(f"note: {message}")

        warnings.simplefilter("always", DamagedDataWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _run_command(argv: list[str]) -> int:
    """Runs the command that `argv` names; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    name = ALIASES.get(argv[0], argv[0])
    if name not in COMMANDS:
        raise UserError(f"there is no command {argv[0]!r}{suggest_names(argv[0], COMMANDS)}")
    try:
        return load_command(name).main(argv[1:])
    except SystemExit as end:  # raised by argparse after --help
        return int(end.code or 0)
