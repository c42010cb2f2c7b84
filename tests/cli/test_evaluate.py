"""`charladder evaluate`: JSON keys and tables of the detailed scores, which agree with the total score."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from caches import new_cache
from charladder.cli.main import main

SHAPE = ["--layers", "3", "--width", "16", "--context", "64", "--batch", "2", "--steps", "12"]
DETAILS = ["--by-context", "--by-layer", "--by-position", "--copying", "--probes", "4"]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text("A ladder has layers, and each of them says what it sees. " * 300)
        assert main(["train", "text", *SHAPE, "--run", "run", "--objective.intermediate-schedule", "half"]) == 0
        assert main(["train", "text", *SHAPE, "--run", "plain", "--objective.intermediate", "false"]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_runs_folder(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)


def evaluate_json(capsys, *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_details_agree_with_the_total_score(capsys):
    result = evaluate_json(capsys, "run", *DETAILS)
    assert [row["context"] for row in result["by_context"]] == [32, 64]
    last = result["by_context"][-1]
    assert (last["stride"], last["bits_per_character"]) == (32, result["bits_per_character"])
    assert 0 <= last["accuracy"] <= 1
    terms = {row["term"]: row for row in result["by_layer"]}
    assert terms["main"]["bits_per_character"] == pytest.approx(result["bits_per_character"], rel=1e-6)
    assert set(terms) == {f"layer{r}.target{k}" for r in (1, 2, 3) for k in (1, 2)} - {"layer3.target1"} | {"main"}
    # half: layer 1 of 3 contributes until a sixth of the 12 steps, layer 2 until a third, the last one always
    learned = {term: row["last_learned"]["step"] for term, row in terms.items()}
    assert learned == {
        "layer1.target1": 2, "layer1.target2": 2, "layer2.target1": 4, "layer2.target2": 4, "main": 12,
        "layer3.target2": 12,
    }  # fmt: skip
    assert sum(row["characters"] for row in result["by_position"]) == result["characters"]
    assert {row["distance"] for row in result["copying"]} == {8, 16, 32}
    assert set(evaluate_json(capsys, "run")) == {
        "bits_per_character", "characters", "context", "stride", "split", "corpus_sha256", "seconds",
        "bits_per_unicode_character", "weights",
    }  # fmt: skip


def test_by_layer_without_intermediate_losses(capsys):
    assert [row["term"] for row in evaluate_json(capsys, "plain", "--by-layer")["by_layer"]] == [
        "main",
        "layer3.target2",
    ]


def test_by_layer_includes_the_heads_of_refit(capsys):
    shutil.copytree("run", "refitted")
    assert main(["refit", "refitted", "--steps", "3", "--layers", "1,2"]) == 0
    rows = {row["term"]: row for row in evaluate_json(capsys, "refitted", "--by-layer")["by_layer"]}
    assert rows["layer2.refit"]["last_learned"] == {"step": 3, "progress": None, "characters": 3 * 8 * 64}
    assert rows["layer2.refit"]["bits_per_character"] != rows["layer2.target1"]["bits_per_character"]
    assert main(["evaluate", "refitted", "--by-layer"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer1.refit")]
    assert line.endswith(" refit step 3")
    save_file(load_file("plain/model.safetensors"), "refitted/model.safetensors")
    assert main(["evaluate", "refitted", "--by-layer"]) == 0
    out, err = capsys.readouterr()
    assert "was fitted to another network" in err and "the heads of refit are not scored" in err
    assert "layer1.target1" in out and "refit" not in out


def test_shared_heads_learn_until_the_last_step(capsys):
    assert main(["train", "text", *SHAPE, "--run", "shared", "--objective.intermediate-heads", "shared"]) == 0
    rows = {row["term"]: row for row in evaluate_json(capsys, "shared", "--by-layer")["by_layer"]}
    assert rows["layer1.target1"]["last_contributed"]["step"] == 2
    assert rows["layer1.target1"]["last_learned"] == rows["main"]["last_learned"]
    assert main(["evaluate", "shared", "--by-layer"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("layer1.target1")]
    assert line.split()[3:] == ["step", "12", "(92%)", "step", "2", "(8%)"]


def test_tables_and_exported_file(capsys):
    capsys.readouterr()
    assert main(["evaluate", "run", *DETAILS, "--limit", "300", "--export", "each.jsonl"]) == 0
    out = capsys.readouterr().out
    for phrase in ("by context", "by layer", "layer1.target2", "invented names", "each.jsonl"):
        assert phrase in out
    assert out.splitlines()[-1].startswith("valid: ")
    rows = [json.loads(line) for line in Path("each.jsonl").read_text().splitlines()]
    assert len(rows) == 300
    assert sum(row["bits"] for row in rows) / 300 == pytest.approx(
        evaluate_json(capsys, "run", "--limit", "300")["bits_per_character"]
    )


def test_output_has_bits_per_unicode_character(capsys):
    """Training and evaluation print them where a character of the network is a byte and the text is not ASCII."""
    Path("umlauts").write_text("Größe, Äpfel, süße Übungen → ∑ " * 200)
    assert main(["train", "umlauts", *SHAPE, "--run", "umlauts-run"]) == 0
    trained = capsys.readouterr().out.splitlines()
    assert main(["evaluate", "umlauts-run"]) == 0
    scored = capsys.readouterr().out.splitlines()
    result = evaluate_json(capsys, "umlauts-run")
    assert result["bits_per_unicode_character"] > result["bits_per_character"]
    for lines in (trained, scored):
        assert lines[-2:] == [
            f"valid: {result['bits_per_unicode_character']:.4f} bits per Unicode character",
            f"valid: {result['bits_per_character']:.4f} bits per character",
        ]
    assert main(["evaluate", "run"]) == 0
    assert "Unicode" not in capsys.readouterr().out  # the text is ASCII


def test_note_names_the_assumed_encoding_of_other_text(capsys):
    Path("latin").write_bytes("Größe, Äpfel, süße Übungen; ".encode("latin-1") * 200)
    assert main(["train", "latin", *SHAPE, "--run", "latin-run", "--encoding", "latin-1"]) == 0
    note = f"{Path.cwd() / 'latin'} was read as latin-1, the encoding that latin-run was trained with; give --encoding"
    for arguments, is_silent in (
        (["latin-run", "latin"], False),
        (["latin-run", "latin", "--encoding", "latin-1"], True),
        (["latin-run"], True),
        (["run", "latin"], True),
    ):
        capsys.readouterr()
        assert main(["evaluate", *arguments, "--limit", "50"]) == 0
        assert (note in capsys.readouterr().err) != is_silent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--export", "each.csv"], "--export is each.csv; it must end in .jsonl or .parquet"),
        (["run", "--export", "text.jsonl"], "text.jsonl exists and is not overwritten; choose another name (--export)"),
        (["run", "--by-context", "--stride", "40"], "--stride is 40; it must be at most the smallest context, 32"),
        (["run", "--copying", "--probes", "1"], "--probes must be at least 2"),
        (["run", "--copying", "--context", "16"], "too short for the copying probe"),
        (["headless", "--by-layer"], "heads.safetensors is not there yet"),
    ],
)
def test_user_errors(capsys, arguments, message):
    Path("text.jsonl").touch()
    if not Path("headless").exists():
        Path("headless").mkdir()
        for name in ("config.toml", "model.safetensors", "metrics.jsonl"):
            (Path("headless") / name).write_bytes((Path("run") / name).read_bytes())
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err
