"""The order of positional arguments and options on the command line."""

import pytest

from charladder.cli.main import main
from charladder.cli.options import Parser
from charladder.errors import UserError

ORDERS = [
    "run --limit 3 one two",
    "run one --limit 3 two",
    "run one two --limit 3",
    "--limit 3 run one two",
    "run --limit=3 -- one two",
    "--limit 3 -- run one two",
]


def make_parser() -> Parser:
    parser = Parser("evaluate", "", "")
    parser.add_argument("run")
    parser.add_argument("data", nargs="*")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", action="store_true")
    return parser


@pytest.mark.parametrize("arguments", ORDERS)
def test_positional_arguments_and_options_in_any_order(arguments):
    options = make_parser().parse(arguments.split())
    assert (options.run, options.data, options.limit) == ("run", ["one", "two"], 3)


@pytest.mark.parametrize(
    "arguments", [["run", "--json", "--", "--limit", "-"], ["--json", "--", "run", "--limit", "-"]]
)
def test_arguments_after_two_dashes_are_positional(arguments):
    options = make_parser().parse(arguments)
    assert (options.run, options.data, options.limit, options.json) == ("run", ["--limit", "-"], None, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --limti 3 one", "has no option --limti; did you mean --limit?"),
        ("run one -x", "has no option -x"),
        ("--limit 3", "the following arguments are required: run"),
        ("run --limit", "argument --limit: expected one argument"),
    ],
)
def test_invalid_options_in_any_order(arguments, message):
    with pytest.raises(UserError, match=message):
        make_parser().parse(arguments.split())


@pytest.mark.parametrize("arguments", ["run one --nosuch", "run --limti 3 one", "--limit", "run --limit x"])
def test_every_error_of_options_names_the_help_page(arguments):
    with pytest.raises(UserError, match=r" \(see charladder evaluate --help\)$"):
        make_parser().parse(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train text --steps 2 gone", "there is no file or corpus called 'gone'"),
        ("evaluate run --limit 5 gone", "there is no run directory run"),
        ("plot run --by seconds gone", "there is no run directory run"),
        ("study paper --seeds 1 gone", "there is no file or corpus called 'gone'"),
        ("generate --length 5 run gone", "has no use for the argument 'gone'"),
        ("corpora text8 --json gone", "has no use for the argument 'gone'"),
    ],
)
def test_every_command_accepts_arguments_after_options(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a ladder has layers. " * 300)
    assert main(arguments.split()) == 2
    assert message in capsys.readouterr().err
