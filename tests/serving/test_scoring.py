"""/score and /layers against evaluation, and against the network itself."""

import json
import math
import subprocess
import sys

import httpx2
import numpy as np
import pytest
import torch

from charladder.evaluation import evaluate
from charladder.run import open_run
from serving.served import serving

TEXT = "A lädder has rüngs; größer → ∑ 😀. " * 4
DATA = TEXT.encode()


def post(served, path, **body):
    return httpx2.post(f"{served.url}/{path}", json=body, timeout=60).raise_for_status().json()


@pytest.fixture(scope="module")
def modules(runs):
    run = open_run(runs / "run")
    return run.load_network(), run.load_objective()


def test_score_equals_evaluate(served, runs, modules):
    ids_N = np.frombuffer(DATA, np.uint8)
    score = evaluate(lambda t, keep: modules[0](t, logits_to_keep=keep).logits_BTV, ids_N, (0, len(DATA)), 16, 8, 256)
    result = post(served, "score", text=TEXT)
    assert result["characters"] == len(DATA) == len(result["bits"]) == len(result["offsets"])
    assert result["total_bits"] == pytest.approx(score.bits, rel=1e-6)
    assert result["bits_per_character"] == pytest.approx(score.bits / len(DATA), rel=1e-6)
    (runs / "scored.txt").write_bytes(DATA)
    command = [sys.executable, "-m", "charladder", "evaluate", str(runs / "run"), str(runs / "scored.txt"), "--json"]
    evaluated = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert evaluated["bits_per_character"] == pytest.approx(result["bits_per_character"], rel=1e-6)


@pytest.mark.parametrize("begin", [0, 1, 5, 16, 17, 18, 40, 77, len(DATA) - 1, len(DATA)])
def test_bits_of_a_part_equal_those_of_the_full_text(served, begin):
    bits = post(served, "score", text=TEXT)["bits"]
    assert post(served, "score", text=TEXT, begin=begin)["bits"] == pytest.approx(bits[begin:], abs=1e-5)
    end = min(len(DATA), begin + 3)
    part = post(served, "score", text=TEXT, begin=begin, end=end)
    assert part["bits"] == pytest.approx(bits[begin:end], abs=1e-5)
    # The bits do not depend on the text that follows.
    assert post(served, "score", ids=[*DATA[:end], 0, 1, 2], begin=begin, end=end)["bits"] == pytest.approx(
        part["bits"], abs=1e-5
    )


def test_offsets_are_code_points(served, lettered):
    result = post(served, "score", text="aä😀b")
    assert result["offsets"] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert post(lettered, "score", text="Aä😀 ")["offsets"] == [0, 1, 2, 3]


def test_every_layer_scores_every_symbol(served, modules):
    network, objective = modules
    result = post(served, "score", text=TEXT, layers=True)
    terms = {row["term"]: row for row in result["layers"]}
    assert set(terms) == {f"layer{r}.target{k}" for r in (1, 2, 3) for k in (1, 2, 3)} - {"layer3.target1"} | {"main"}
    assert terms["main"]["bits"][1:] == pytest.approx(result["bits"][1:], abs=1e-5)
    for row in result["layers"]:
        assert row["bits"][: row["target"]] == [None] * row["target"]
        assert all(bits is not None for bits in row["bits"][row["target"] :])
    place = 9  # in the first window, so the context is all text before it
    with torch.no_grad():
        hidden = network(torch.tensor([list(DATA[: place - 1])]), output_hidden={2}).hidden[2]
        logits = objective.heads["layer2_target2"](objective.head_input(network, 2, hidden))[0, -1]
    bits = -float(logits.double().log_softmax(-1)[DATA[place]]) / math.log(2)
    assert terms["layer2.target2"]["bits"][place] == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("place", [1, 2, 15, 16, 17, 24, 25, 40, len(DATA) - 1])
def test_layers_has_a_row_for_each_layer_that_agrees_with_score(served, place):
    result = post(served, "layers", text=TEXT, place=place)
    assert [row["layer"] for row in result["rows"]] == [1, 2, 3]
    assert result["symbol"]["id"] == DATA[place]
    scored = post(served, "score", text=TEXT, layers=True)
    assert result["bits"] == pytest.approx(scored["bits"][place], abs=1e-4)
    for row in result["rows"]:
        assert [head["target"] for head in row["heads"]] == [1, 2, 3]
        for head in row["heads"]:
            probabilities = [candidate["probability"] for candidate in head["likeliest"]]
            assert len(probabilities) == 5 and probabilities == sorted(probabilities, reverse=True)
            assert head["last_learned"]["step"] > 0
            target_place = place + head["target"] - 1
            if target_place >= len(DATA):
                assert head["actual"] is None
                continue
            assert head["actual"]["id"] == DATA[target_place]
            if head["actual"]["rank"] < 5:
                assert head["likeliest"][head["actual"]["rank"]]["probability"] == head["actual"]["probability"]
            bits = next(r for r in scored["layers"] if r["term"] == head["term"])["bits"][target_place]
            if place < 17 and target_place < 17:  # both are in the same window
                assert -math.log2(head["actual"]["probability"]) == pytest.approx(bits, abs=1e-4)


def test_layers_before_the_first_character_and_after_the_last(served):
    first = post(served, "layers", text="abc", place=0)
    assert first["bits"] == 8.0 and "no text before it" in first["note"]
    assert [row["heads"] for row in first["rows"]] == [[], [], []]
    last = post(served, "layers", text="abc", place=3)
    assert last["symbol"] is None and last["bits"] is None
    assert last["rows"][2]["heads"][0]["actual"] is None and len(last["rows"][2]["heads"][0]["likeliest"]) == 5


def test_run_without_heads_predicts_from_the_last_layer_only(runs):
    with serving(runs / "bare") as bare:
        result = post(bare, "layers", text="A lad", place=3)
        assert [len(row["heads"]) for row in result["rows"]] == [0, 0, 1]
        scored = post(bare, "score", text="A lad", layers=True)
        assert [row["term"] for row in scored["layers"]] == ["main"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("score", {}, 400, "send either `text` or `ids`"),
        ("score", {"text": "a", "ids": [1]}, 400, "send either `text` or `ids`"),
        ("score", {"text": "a", "begin": 2}, 400, "begin is 2; the text has 1 symbols"),
        ("score", {"text": "abc", "begin": 2, "end": 1}, 400, "end is 1; it must be at least 2 and at most 3"),
        ("score", {"text": "x" * 100_001}, 400, "send 100,000 at most"),
        ("layers", {"text": "abc", "place": 4}, 400, "the text has 3 symbols"),
        ("layers", {"text": "abc"}, 400, "the field 'place' is missing"),
        ("layers", {"ids": [256], "place": 0}, 400, "the tokens are 0 to 255"),
    ],
)
def test_invalid_requests_give_400(served, path, body, status, message):
    answer = httpx2.post(f"{served.url}/{path}", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
