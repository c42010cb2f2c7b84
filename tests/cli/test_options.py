"""The order of words on the command line."""

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


@pytest.mark.parametrize("words", ORDERS)
def test_positional_arguments_and_options_stand_in_any_order(words):
    options = make_parser().parse(words.split())
    assert (options.run, options.data, options.limit) == ("run", ["one", "two"], 3)


@pytest.mark.parametrize("words", [["run", "--json", "--", "--limit", "-"], ["--json", "--", "run", "--limit", "-"]])
def test_what_follows_two_dashes_is_never_an_option(words):
    options = make_parser().parse(words)
    assert (options.run, options.data, options.limit, options.json) == ("run", ["--limit", "-"], None, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run --limti 3 one", "has no option --limti; did you mean --limit?"),
        ("run one -x", "has no option -x"),
        ("--limit 3", "the following arguments are required: run"),
        ("run --limit", "argument --limit: expected one argument"),
    ],
)
def test_mistakes_are_named_whatever_the_order(words, sentence):
    with pytest.raises(UserError, match=sentence):
        make_parser().parse(words.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train text --steps 2 gone", "there is no file or corpus called 'gone'"),
        ("evaluate run --limit 5 gone", "there is no run directory run"),
        ("plot run --by seconds gone", "there is no run directory run"),
        ("study paper --seeds 1 gone", "there is no file or corpus called 'gone'"),
        ("generate --length 5 run gone", "has no use for the argument 'gone'"),
        ("corpora text8 --json gone", "has no use for the argument 'gone'"),
    ],
)
def test_every_command_takes_its_arguments_after_options(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a ladder has layers. " * 300)
    assert main(words.split()) == 2
    assert sentence in capsys.readouterr().err
