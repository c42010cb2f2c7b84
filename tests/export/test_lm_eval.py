"""lm-evaluation-harness: the number of `evaluate`, from our class, from its class for transformers and over HTTP."""

import json
import sys

import pytest

from charladder.cli.main import main

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")

from lm_eval.tasks import TaskManager  # noqa: E402  # pyright: ignore[reportMissingImports]

from charladder.export.lm_eval import TASKS, CharladderLM  # noqa: E402
from charladder.export.lm_eval import main as launch  # noqa: E402
from helpers import PROSE  # noqa: E402
from serving.served import serving  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--steps", "8"]
TEXT = ("The Ladder is lädder. " + PROSE)[: 1 + 16 * 12 - 1]  # ä has two bytes: 193 bytes, 12 contexts and one
FIRST = TEXT.encode()[0]  # the prefix token


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    (folder / "train.txt").write_text(PROSE * 20)
    (folder / "held.txt").write_text(TEXT, encoding="utf-8")
    assert main(["train", str(folder / "train.txt"), *TINY, "--run", str(folder / "run")]) == 0
    return folder


def evaluated(folder, capsys, *options: str) -> float:
    capsys.readouterr()
    assert main(["evaluate", str(folder / "run"), str(folder / "held.txt"), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["bits_per_character"]


def from_harness(folder, model, model_args=None, task="charladder_text", **metadata) -> dict:
    tasks = TaskManager(
        include_path=str(TASKS), include_defaults=False, metadata={"data": str(folder / "held.txt"), **metadata}
    )
    options = {"device": "cpu"} if isinstance(model, str) else {}
    results = lm_eval.simple_evaluate(
        model=model, model_args=model_args, tasks=[task], task_manager=tasks, bootstrap_iters=0, **options
    )
    return results["results"][task]


def test_our_class_gives_the_number_of_evaluate(folder, capsys):
    model = CharladderLM(str(folder / "run"))
    found = from_harness(folder, model)
    assert found["bits_per_byte,none"] == pytest.approx(evaluated(folder, capsys), rel=1e-6)
    data = TEXT.encode()
    assert found["bits_per_unicode_character,none"] == pytest.approx(
        found["bits_per_byte,none"] * len(data) / len(TEXT), rel=1e-12
    )
    limited = from_harness(folder, model, characters=60)["bits_per_byte,none"]
    assert limited == pytest.approx(evaluated(folder, capsys, "--limit", "60"), rel=1e-6)


def test_tasks_of_the_corpora_score_the_test_part(folder):
    model = CharladderLM(str(folder / "run"))
    size = len(TEXT.encode()) // 20
    (folder / "part.txt").write_bytes(TEXT.encode()[-size:])
    expected = from_harness(folder, model, data=str(folder / "part.txt"))
    for task in ("charladder_text8", "charladder_enwik8"):
        assert from_harness(folder, model, task=task)["bits_per_byte,none"] == expected["bits_per_byte,none"]


def test_transformers_at_its_windows_gives_the_number_of_evaluate(folder, capsys, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the harness asks the hub for the model
    exported = folder / "hf"
    assert main(["export", str(folder / "run"), "--to", "hf", str(exported)]) == 0
    arguments = {"pretrained": str(exported), "prefix_token_id": FIRST, "max_length": 16, "dtype": "float32"}
    found = from_harness(folder, "hf", arguments, prefix_symbols=256)["bits_per_byte,none"]
    expected = evaluated(folder, capsys, "--stride", "16")
    assert found == pytest.approx(expected, rel=1e-6)
    ours = from_harness(folder, CharladderLM(str(folder / "run"), stride=16))["bits_per_byte,none"]
    assert ours == pytest.approx(expected, rel=1e-6)
    assert abs(expected - evaluated(folder, capsys)) > 1e-4  # the strides give different numbers


def test_http_gives_the_number_of_evaluate(folder, capsys):
    pytest.importorskip("tenacity", reason="the harness needs lm-eval[api] for HTTP")
    with serving(folder / "run") as served:
        arguments = {
            "model": "run", "base_url": f"{served.url}/v1/completions", "custom_prefix_token_id": FIRST,
            "max_length": len(TEXT.encode()) + 2,
        }  # fmt: skip
        found = from_harness(folder, "local-completions", arguments, prefix_symbols=256)["bits_per_byte,none"]
    assert found == pytest.approx(evaluated(folder, capsys), rel=1e-6)


class OwnTasks(TaskManager):
    """Without the harness's own tasks, whose thousands of files take seconds to read."""

    def __init__(self, **options) -> None:
        super().__init__(include_defaults=False, **options)


def test_tasks_of_the_user_replace_those_of_the_package(monkeypatch):
    seen = []
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.append(sys.argv[1:]))
    for own in (["--include_path", "mine"], ["--include_path=mine"]):
        assert launch(["run", *own]) == 0
        assert seen.pop() == ["run", *own]
    assert launch(["run"]) == 0
    assert seen.pop() == ["run", "--include_path", str(TASKS)]


def test_a_run_whose_name_is_a_number(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "7").symlink_to("run")
    assert CharladderLM.create_from_arg_string("run=7").model.run.alphabet.size == 256


def test_command(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", OwnTasks)
    missing = ["run", "--model", "charladder", "--model_args", "run=nowhere", "--tasks", "charladder_text"]
    assert launch([*missing, "--metadata", f"data={folder / 'held.txt'}"]) == 2
    assert "charladder: there is no run directory nowhere" in capsys.readouterr().err
    arguments = ["run", "--model", "charladder", "--model_args", f"run={folder / 'run'}", "--tasks", "charladder_text"]
    assert launch(arguments) == 2
    assert "the task charladder_text has no text; give one with --metadata data=FILE" in capsys.readouterr().err
    expected = evaluated(folder, capsys)
    assert launch([*arguments, "--metadata", f"data={folder / 'held.txt'}", "--output_path", "out"]) == 0
    (result,) = tmp_path.glob("out/**/results_*.json")
    assert json.loads(result.read_text())["results"]["charladder_text"]["bits_per_byte,none"] == pytest.approx(
        expected, rel=1e-6
    )
