"""The statements of docs/service.md."""

import re
from pathlib import Path

import openai
import pytest

from charladder.cli.main import main
from charladder.serving.limits import Limits
from charladder.serving.schemas import CompletionRequest, LayersRequest, ScoreRequest
from serving.served import serving

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text()


def test_options_exist(capsys):
    assert main(["serve", "--help"]) == 0
    help = capsys.readouterr().out
    options = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--seed"}  # of generate
    assert options and all(option in help for option in options)


def test_documented_limits_are_the_defaults():
    limits = Limits()
    for figure in (
        f"{limits.streams} texts at once", f"{limits.waiting} waiting", f"{limits.max_tokens:,} characters\na text",
        f"{limits.prompt:,} of a prompt", f"{limits.body_bytes >> 20} MiB a body", f"{limits.seconds:g} "
        "seconds a request",
        f"takes nothing for {limits.client_seconds:g} seconds", f"has {limits.client_seconds:g} seconds for a",
        f"head ({limits.head_bytes >> 10} KiB at most)", f"where there are {limits.connections:,}",
    ):  # fmt: skip
        assert figure in PAGE
    assert limits.prompt == limits.score


def test_fields_are_those_of_the_protocol():
    fields = {*CompletionRequest.model_fields, *ScoreRequest.model_fields, *LayersRequest.model_fields}
    unnamed = {"model", "user", "presence_penalty", "frequency_penalty", "text", "ids"}  # not in backquotes alone
    assert all(f"`{field}" in PAGE for field in fields - unnamed)


def test_the_example_works(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]
    assert main(["train", str(text_file), *tiny, "--run", "ladder-1"]) == 0
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    capsys.readouterr()
    with serving(Path("ladder-1")) as served:
        exec(example.replace("http://127.0.0.1:8000", served.url))
    assert len(capsys.readouterr().out) > 50


@pytest.mark.parametrize("status", re.findall(r"(\d{3}) ", PAGE[PAGE.index("own exceptions: ") :].split("\n\n")[0]))
def test_statuses_are_documented(status):
    from charladder.serving.api_errors import ERROR_RESPONSES

    assert int(status) in ERROR_RESPONSES and issubclass(openai.APIStatusError, Exception)
