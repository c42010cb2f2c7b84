"""`charladder generate` and `charladder refit`, and the same from Python."""

import gc
import hashlib
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from caches import new_cache
from charladder.cli.main import main
from charladder.errors import UserError
from charladder.generation import SamplingParams
from charladder.generation.empty_prompt import ids_before_empty_prompt
from charladder.generation.speculative.heads_file import FILE_NAME, load_heads
from charladder.generation.text_generator import GenerationConfig, TextGenerator
from charladder.run import open_run
from charladder.text import Alphabet
from charladder.text.alphabet import TEXT8_LETTERS

TINY = ["--layers", "3", "--width", "16", "--context", "16", "--batch", "2", "--steps", "3"]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    """Runs: `run` has drafting heads, `bare` no heads, `lettered` an alphabet of letters, `deep` three targets."""
    folder = tmp_path_factory.mktemp("generate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text("A lädder has rüngs; größer → ∑ 😀. " * 200)
        for run, extra_arguments in (
            ("run", []),
            ("bare", ["--objective.targets", "1"]),
            ("lettered", ["--alphabet", "letters"]),
            ("deep", ["--objective.intermediate-schedule", "never", "--objective.targets", "3"]),
        ):
            assert main(["train", "text", *TINY, *extra_arguments, "--run", run]) == 0
        assert main(["refit", "run", "--steps", "4", "--ahead", "3"]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_runs_folder(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)


def generate_json(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["generate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "draft",
    ["auto", "targets", *(pytest.param(one, marks=pytest.mark.slow) for one in ("none", "early-exit", "ngram"))],
)
def test_same_seed_repeats_the_text_with_every_drafter(capsys, draft):
    first, again, other = (
        generate_json(capsys, "run", "--prompt", "A l", "--length", "60", "--draft", draft, "--seed", seed)
        for seed in "334"
    )
    assert first["text"] == again["text"] != other["text"]
    assert (first["characters"], first["finish"]) == (60, "length")
    assert first["draft"].startswith(draft)
    assert first["accepted_per_pass"] >= 1
    assert first["milliseconds_per_pass"] > 0


def test_auto_gives_the_same_text_as_none(capsys):
    texts = [generate_json(capsys, "run", "--length", "300", "--draft", draft)["text"] for draft in ("auto", "none")]
    assert texts[0] == texts[1]


def test_heads_of_training_draft_without_refit(capsys):
    for draft in ("targets", "early-exit"):
        assert generate_json(capsys, "deep", "--length", "40", "--draft", draft)["draft"] == draft


def test_refit_continues_and_does_not_change_the_network(capsys):
    before = hashlib.sha256(Path("run/model.safetensors").read_bytes()).hexdigest()
    heads, metadata = load_heads(open_run(Path("run"))) or pytest.fail("run has no drafting heads")
    assert list(heads.early_exit) == ["1"]
    assert main(["refit", "run", "--steps", "2", "--ahead", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps_in_all"] == metadata.steps + 2
    assert set(result["bits"]) == {"chain1", "chain2", "chain3", "layer1"}
    assert hashlib.sha256(Path("run/model.safetensors").read_bytes()).hexdigest() == before
    assert main(["refit", "run", "--steps", "1", "--fresh", "--layers", "1,2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps_in_all"] == 1


def test_prompts_keep_their_order_and_give_the_same_text_as_alone(capsys):
    Path("prompts").write_text('"A l"\n\n{"prompt": "rün", "id": 7}\n"größ"\n')
    rows = []
    for together in ("1", "2", "16"):
        assert main(["generate", "run", "--prompts", "prompts", "--length", "30", "--draft", "none", "--together",
                     together, "--log-probabilities"]) == 0  # fmt: skip
        rows.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    assert [row["prompt"] for row in rows[0]] == ["A l", "rün", "größ"]
    assert rows[0][1]["id"] == 7
    for row in rows[0]:
        assert len(row["log_probabilities"]) == row["characters"] == 30
        assert all(nats <= 0 for nats in row["log_probabilities"])
    assert [[row["text"] for row in others] for others in rows[1:]] == [[row["text"] for row in rows[0]]] * 2
    for row in rows[0]:
        assert generate_json(capsys, "run", "--prompt", row["prompt"], "--length", "30")["text"] == row["text"]


def test_log_probabilities_do_not_depend_on_sampling():
    run = open_run(Path("lettered"))
    for draft in ("none", "ngram"):
        settings = GenerationConfig(12, SamplingParams(temperature=0.5, top_k=3), draft=draft)
        (text,) = TextGenerator(run, settings).generate([b"A l"])
        ids = run.alphabet.encode(("A l" + text.text).encode()).tolist()
        with torch.no_grad():
            logs_TV = run.load_network()(torch.tensor([ids[:-1]])).logits_BTV[0].log_softmax(-1)
        expected = [float(logs_TV[2 + n, ids[3 + n]]) for n in range(12)]
        np.testing.assert_allclose(text.nats, expected, atol=1e-4)


def test_stop_string_ends_the_text_and_is_removed(capsys):
    run = open_run(Path("run"))
    assert TextGenerator(run, GenerationConfig(200, draft="none")).run.alphabet.size == 256
    (text,) = TextGenerator(run, GenerationConfig(400, seed=2, draft="none")).generate([b"A"])
    raw = text.text.encode("utf-8", "replace")
    stop = text.text[60:62]
    if "\ufffd" in stop:
        stop = next(c for c in text.text[40:] if c.isascii())
    expected = text.text[: text.text.index(stop)]
    for draft in ("none", "auto"):
        result = generate_json(
            capsys, "run", "--prompt", "A", "--length", "400", "--seed", "2", "--draft", draft, "--stop", stop,
            "--stop", "never ever", "--log-probabilities",
        )  # fmt: skip
        assert result["text"] == expected
        assert result["finish"] == "stop"
        assert len(result["log_probabilities"]) == result["characters"] <= len(raw)


def test_streamed_pieces_split_no_character_and_contain_no_stop_string():
    """The runner repeats a cycle of multi-byte characters."""
    run = open_run(Path("run"))
    model = TextGenerator(run, GenerationConfig(60, draft="none"))
    cycle = list("grö→😀".encode())
    follow = dict(zip(cycle, cycle[1:] + cycle[:1], strict=True))
    assert len(follow) == len(cycle)

    class CyclicRunner:
        slots, context, layers, width, alphabet_size = 1, 16, 1, 4, 256

        def run(self, batch, first=0, last=None, x_ND=None):
            logits = np.full((len(batch.ids), 256), -50, np.float32)
            for n, symbol in enumerate(batch.ids):
                logits[n, follow[symbol]] = 50
            zeros = np.zeros((len(batch.ids), 4), np.float32)
            return type("Output", (), {"x_ND": zeros, "normed_ND": zeros, "logits_NV": logits})()

    model.runners = {1: CyclicRunner()}  # type: ignore[dict-item]
    pieces = list(model.stream(b"g"))
    assert "\ufffd" not in "".join(pieces[:-1])
    assert "".join(pieces).startswith("rö")
    model.stop_ids = [list("😀x".encode()), list("→→".encode()), list("→".encode())]
    stopped = list(model.stream(b"g"))
    assert "".join(stopped) == "".join(pieces)[: "".join(pieces).index("→")]


@pytest.mark.parametrize("draft", ["none", "ngram"])
def test_empty_prompt_is_read_as_a_newline(draft):
    """The log-probability of the first character is that after a newline."""
    run = open_run(Path("run"))
    greedy = SamplingParams(temperature=0.0)
    model = TextGenerator(run, GenerationConfig(12, greedy, draft=draft))
    (empty,), (newline,) = model.generate([b""]), model.generate([b"\n"])
    assert (empty.ids, empty.nats) == (newline.ids, pytest.approx(newline.nats))
    drawn = list(TextGenerator(run, GenerationConfig(1, draft=draft, batch_size=64)).generate([b""] * 64))
    network = run.load_network()
    nats_V = network(torch.tensor([[10]])).logits_BTV[0, -1].detach().log_softmax(0)
    for text in drawn:
        assert text.nats == [pytest.approx(float(nats_V[text.ids[0]]), abs=1e-4)]


def test_ids_before_empty_prompt():
    ids = [ids_before_empty_prompt(Alphabet(letters)) for letters in ("", "\n a", TEXT8_LETTERS, "acgt")]
    assert ids == [[10], [0], [0], []]


USER_ERRORS = [
    (
        ["generate", "bare", "--draft", "targets"],
        "bare has no heads of further targets to draft with; `charladder refit",
    ),
    (
        ["generate", "bare", "--draft", "early-exit"],
        "bare has no heads of intermediate layers to draft with",
    ),
    (["generate", "run", "--draft-length", "0"], "--draft-length is 0"),
    (["generate", "run", "--stop", ""], "--stop is ''; it must have at least one character"),
    (["generate", "run", "--together", "0", "--prompts", "prompts"], "--together is 0"),
    (["generate", "run", "--log-probabilities"], "add --json"),
    (["generate", "run", "--prompts", "prompts", "--prompt", "x"], "leave --prompt and --json out"),
    (["generate", "run", "--prompts", "nowhere"], "nowhere cannot be read"),
    (["generate", "run", "--prompts", "badline"], "badline, line 2: not a JSON string, or an object"),
    (
        ["generate", "run", "--prompts", "half"],
        "half, line 1: the prompt or a stop string has half of a",
    ),
    (["generate", "run", "--prompts", "empty"], "empty has no prompts"),
    (["generate", "lettered", "--prompts", "greek"], "greek, line 2 has the character 'Ω' at position 0"),
    (["generate", "lettered", "--stop", "Ω"], "the stop string has the character 'Ω'"),
    (["refit", "nowhere"], "there is no run directory nowhere"),
    (["refit", "run", "--steps", "2", "--minutes", "1"], "give one budget"),
    (["refit", "run", "--steps", "-1"], "a budget is below 0"),
    (["refit", "run", "--ahead", "0"], "--ahead is 0"),
    (["refit", "run", "--batch", "0"], "--batch is 0"),
    (["refit", "run", "--layers", "3"], "the network has the intermediate layers 1 to 2"),
    (["refit", "run", "--layers", "one"], "give numbers of layers"),
    (["refit", "run", "--rate", "nan"], "--rate is nan"),
    (["refit", "run", "--seed", "-1"], "--seed is -1"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), USER_ERRORS, ids=[" ".join(arguments) for arguments, _ in USER_ERRORS]
)
def test_user_errors(capsys, arguments, message):
    Path("prompts").write_text('"A"\n')
    Path("badline").write_text('"A"\n{"promt": "x"}\n')
    Path("half").write_text('"\\ud800"\n')
    Path("empty").write_text("\n")
    Path("greek").write_text('\n"Ω"\n')
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_invalid_drafting_heads_are_refused(runs_folder, tmp_path):
    import shutil

    shutil.copytree("run", tmp_path / "run")
    run = open_run(tmp_path / "run")
    file = run.path / FILE_NAME
    content, tensors = file.read_bytes(), load_file(file)
    assert load_heads(run) is not None
    for damage, message in (
        (content[:100], "cannot be read as safetensors"),
        (b"", "cannot be read as safetensors"),
        (content[:-4], "cannot be read as safetensors"),
    ):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=message):
            load_heads(run)
    about = {"about": json.dumps({"network": "0" * 64, "steps": 1, "characters": 1})}
    save_file(tensors, file, about)
    with pytest.raises(UserError, match="fitted to another network"):
        load_heads(run)
    for text in ("", "[]", "{}", '{"network": 3, "steps": 1, "characters": 1}', "[" * 5000):
        save_file(tensors, file, {"about": text})
        with pytest.raises(UserError, match="does not hold drafting heads"):
            load_heads(run)
    for name, tensor in (
        ("chain.up.weight", torch.zeros(7, 16)),
        ("chain.gate.weight", torch.zeros(3)),
        ("layers.9.weight", torch.zeros(256, 16)),
        ("layers.\u0661.weight", torch.zeros(256, 16)),
        ("more", torch.zeros(1)),
    ):
        save_file(tensors | {name: tensor}, file, about)
        with pytest.raises(UserError, match="does not hold drafting heads"):
            load_heads(run)
    file.write_bytes(content)
    model = run.path / "model.safetensors"
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    broken = tensors | {"chain.up.weight": torch.full_like(tensors["chain.up.weight"], float("nan"))}
    save_file(broken, file, {"about": json.dumps({"network": digest, "steps": 1, "characters": 1})})
    with pytest.raises(UserError, match="not finite"):
        load_heads(run)
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is not a regular file"):
        load_heads(run)


def test_nan_logits_are_a_user_error(runs_folder, tmp_path, capsys):
    import shutil

    shutil.copytree("bare", tmp_path / "broken")
    file = tmp_path / "broken/model.safetensors"
    tensors = load_file(file)
    tensors["output.weight"][3:5] = torch.tensor([[3e38], [-3e38]])  # one of them gives an infinite logit
    save_file(tensors, file)
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "broken"), "--prompt", "A"]) == 2
    assert "gives NaN for the next character" in capsys.readouterr().err


@pytest.mark.parametrize("draft", ["auto", "none", "targets", "early-exit", "ngram"])
def test_unused_generator_is_freed_without_garbage_collection(draft):
    gc.collect()
    gc.disable()
    try:
        model = TextGenerator(open_run(Path("run")), GenerationConfig(length=4, draft=draft))
        list(model.generate([b"A l"]))
        list(model.generate([b"A l", b"r"]))
        list(model.stream(b"A l"))
        parts = [weakref.ref(part) for part in (model, model.network, *model.runners.values())]
        parts += [weakref.ref(drafter) for drafter in model.drafters.values()]
        del model
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()
