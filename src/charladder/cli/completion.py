"""`charladder completion`: prints a script that completes commands, options and their values in a shell."""

import argparse
import shlex
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from charladder.cli.commands import ALIASES, COMMANDS, load_command
from charladder.cli.help_format import value_type
from charladder.cli.options import Parser
from charladder.recipe import field_help, field_types


def make_parser() -> Parser:
    parser = Parser(
        "completion",
        "Prints a script that completes commands, options and their choices. Bash and fish load the files of the "
        "examples; in zsh, write the script to a file and source it in ~/.zshrc.",
        "charladder completion bash > ~/.local/share/bash-completion/completions/charladder",
        "charladder completion fish > ~/.config/fish/completions/charladder.fish",
    )
    parser.add_argument("shell", choices=tuple(_WRITERS), metavar="bash|zsh|fish", help="the shell")
    return parser


def main(argv: list[str]) -> int:
    for line in _WRITERS[make_parser().parse(argv).shell]():
        print(line)
    return 0


def _bash_lines() -> Iterator[str]:
    yield "_charladder() {"
    yield '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""'
    yield f'  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(COMMANDS)}"; else'
    yield '    case "${COMP_WORDS[1]} $before" in'
    commands = {name: _options(name) for name in COMMANDS}
    for name, options in commands.items():
        for option in options:
            if choices := _choices(option):
                patterns = "|".join(f"{shlex.quote(f'{name} {string}')}" for string in option.option_strings)
                yield f'      {patterns}) words="{" ".join(choices)}" ;;'
    yield '      *) case "$word" in -*) case "${COMP_WORDS[1]}" in'
    for name, options in commands.items():
        names = [name, *(alias for alias, command in ALIASES.items() if command == name)]
        yield f'        {"|".join(names)}) words="{" ".join(map(_name, options))}" ;;'
    yield "      esac ;; esac ;;"
    yield "    esac"
    yield "  fi"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "}"
    yield "complete -o default -F _charladder charladder"


def _zsh_lines() -> Iterator[str]:
    yield "#compdef charladder"
    yield "_charladder() {"
    yield "  local -a commands=("
    yield from (f"    {shlex.quote(f'{name}:{description}')}" for name, description in COMMANDS.items())
    yield "  )"
    yield "  if (( CURRENT == 2 )); then _describe command commands; return; fi"
    yield "  shift words; (( CURRENT-- ))"
    yield '  case "$words[1]" in'
    for name in COMMANDS:
        yield f"    {name}) _arguments \\"
        for option in _options(name):
            help_text = _help_text(option).translate(str.maketrans({"[": "(", "]": ")", ":": ";"}))
            kind = f"({' '.join(_choices(option))})" if _choices(option) else "_files"
            value = "" if option.nargs == 0 else f":{value_type(option).replace(':', ';')}:{kind}"
            yield f"      {shlex.quote(f'{_name(option)}[{help_text}]{value}')} \\"
        yield "      '*:argument:_files' ;;"
    yield "  esac"
    yield "}"
    yield "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
    yield "compdef _charladder charladder"


def _fish_lines() -> Iterator[str]:
    for name, description in COMMANDS.items():
        yield f"complete -c charladder -n __fish_use_subcommand -f -a {name} -d {shlex.quote(description)}"
        condition = shlex.quote(f"__fish_seen_subcommand_from {name}")
        for option in _options(name):
            choices = f" -x -a {shlex.quote(' '.join(_choices(option)))}" if _choices(option) else " -r"
            value = "" if option.nargs == 0 else choices
            help_text = shlex.quote(_help_text(option))
            yield f"complete -c charladder -n {condition} -l {_name(option).lstrip('-')}{value} -d {help_text}"


_WRITERS = {"bash": _bash_lines, "zsh": _zsh_lines, "fish": _fish_lines}


def _options(command: str) -> list[argparse.Action]:
    """All options of a command, those that its help page leaves out included."""
    return [action for action in load_command(command).make_parser()._actions if action.option_strings]


def _name(option: argparse.Action) -> str:
    """The name that is completed: the first long one."""
    return next(name for name in option.option_strings if name.startswith("--"))


def _help_text(option: argparse.Action) -> str:
    hidden = option.help in (None, argparse.SUPPRESS)
    return field_help().get(option.dest, "") if hidden else str(option.help)


def _choices(option: argparse.Action) -> list[str]:
    """The values of an option, or of the recipe field that it sets, where they are few and known."""
    type_ = field_types().get(option.dest)
    return list(map(str, option.choices or (get_args(type_) if get_origin(type_) is Literal else ())))
