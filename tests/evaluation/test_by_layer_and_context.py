"""By context, by position, by layer, character by character: each against the whole score or a plain loop."""

import json
import math

import numpy as np
import pytest
import torch
from pyarrow import parquet

from charladder.errors import UserError
from charladder.evaluation import ScoredCharacters, evaluate
from charladder.evaluation.by_context import context_lengths, evaluate_by_context, evaluate_by_position
from charladder.evaluation.character_export import export_characters
from charladder.evaluation.head_predictions import predictions_at, window_start
from charladder.evaluation.layers import evaluate_layers
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from charladder.text import Alphabet
from helpers import predictor, small

CONTEXT = 16
IDS = np.random.default_rng(0).integers(0, 256, 300).astype(np.uint8)
PART = (40, 260)


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
            parameter.add_(0.2 * noise)
    return module


@pytest.fixture(scope="module")
def network() -> Transformer:
    model = Transformer(small(context=CONTEXT), 256).double().eval()
    stirred(model)
    return model


def scored_by(network, part=PART, ends_F=None):
    def run(context, stride, each):
        return evaluate(predictor(network), IDS, part, context, stride, 256, ends_F=ends_F, on_scored=each)

    return run


@pytest.mark.parametrize("stride", [1, 5, 8, 16])
@pytest.mark.parametrize("part", [PART, (0, 50)])
def test_every_character_is_scored_once_in_order(network, stride, part):
    told: list[ScoredCharacters] = []
    score = scored_by(network, part)(CONTEXT, stride, told.append)
    places = np.concatenate([one.positions_M for one in told])
    assert places.tolist() == list(range(max(1, part[0]), part[1]))
    first = 8.0 if part[0] == 0 else 0.0
    nats = sum(float(one.nats_M.sum()) for one in told)
    assert nats / math.log(2) + first == pytest.approx(score.bits, rel=1e-12)
    seen = np.concatenate([one.context_M for one in told])
    assert seen.max() == CONTEXT and (seen >= np.minimum(places, CONTEXT - stride + 1)).all()


def test_ranks_and_nats_equal_a_plain_loop(network):
    told: list[ScoredCharacters] = []
    scored_by(network, (50, 90))(CONTEXT, 1, told.append)
    for one in told:
        for place, seen, nats, rank in zip(one.positions_M, one.context_M, one.nats_M, one.ranks_M, strict=True):
            with torch.no_grad():
                read = torch.from_numpy(IDS[place - seen : place].astype(np.int64))[None]
                logits = network(read).logits_BTV[0, -1]
            assert nats == pytest.approx(-float(logits.log_softmax(-1)[IDS[place]]), rel=1e-5)
            assert rank == int((logits > logits[IDS[place]]).sum())


def test_by_context_is_the_score_at_each_context(network):
    assert context_lengths(256) == [32, 64, 128, 256]
    assert context_lengths(100) == [32, 64, 100]
    assert context_lengths(16) == [16]
    for part in evaluate_by_context(scored_by(network), [4, 8, 16]):
        right: list[int] = []
        alone = scored_by(network)(
            part.context, part.context // 2, lambda one, right=right: right.extend(one.ranks_M == 0)
        )
        assert part.bits_per_character == alone.bits_per_character
        assert part.accuracy == sum(right) / len(right)
        assert part.stride == part.context // 2
    assert [(part.context, part.stride) for part in evaluate_by_context(scored_by(network, (40, 50)), [1, 3])] == [
        (1, 1),
        (3, 1),
    ]
    with pytest.raises(UserError, match="stride is 8; it must be at most the smallest context, 4"):
        evaluate_by_context(scored_by(network), [4, 16], stride=8)


def test_scores_by_position_add_up_to_the_whole(network):
    parts = evaluate_by_position(scored_by(network), CONTEXT)
    score = scored_by(network)(CONTEXT, CONTEXT, lambda one: None)
    assert sum(part.characters for part in parts) == score.characters
    assert sum(part.bits_per_character * part.characters for part in parts) == pytest.approx(score.bits, rel=1e-9)
    assert [part.context for part in parts] == sorted({part.context for part in parts}) and parts[-1].context == CONTEXT


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ends", [None, [100, 175, 300]])
def test_scores_of_heads_equal_a_plain_loop(network, shared, ends):
    settings = ObjectiveConfig(targets=3, intermediate_heads="shared" if shared else "own")
    objective = LanguageModelObjective(settings, network.settings, 256).double()
    stirred(objective)
    ends_F = None if ends is None else np.array(ends)
    found = evaluate_layers(network, objective, IDS, PART, CONTEXT, 8, ends_F)
    assert [(one.layer, one.target) for one in found] == [(layer, k) for layer in (1, 2, 3) for k in (1, 2, 3)]
    whole = scored_by(network, ends_F=ends_F)(CONTEXT, 8, None)
    main = next(one for one in found if one.term == "main")
    firsts = 0 if ends is None else 2  # the first character of a file is nobody's prediction
    assert main.characters == whole.characters - firsts
    assert main.bits == pytest.approx(whole.bits - 8.0 * firsts, rel=1e-6)
    one = next(one for one in found if (one.layer, one.target) == (2, 3))
    head = objective.heads["layer3_target3" if shared else "layer2_target3"]
    bits, count = 0.0, 0
    starts = [0, *(ends or [])]
    for first, last in zip(starts, [*(ends or [300])], strict=False):
        begin, last = max(PART[0], first), min(PART[1], last)
        for place in range(max(begin, first + 1), last):
            if place + 2 >= last:
                continue
            for start, low, high in windows(begin, last, first):
                if low <= place < high:
                    with torch.no_grad():
                        read = torch.from_numpy(IDS[start:place].astype(np.int64))[None]
                        hidden = network(read, output_hidden={2}).hidden[2]
                        logits = head(objective.head_input(network, 2, hidden))[0, -1]
                    bits -= float(logits.log_softmax(-1)[IDS[place + 2]]) / math.log(2)
                    count += 1
    assert one.characters == count
    assert one.bits == pytest.approx(bits, rel=1e-5)


def test_scores_of_chained_targets_equal_a_plain_loop(network):
    settings = ObjectiveConfig(targets=3, target_heads="chained")
    objective = stirred(LanguageModelObjective(settings, network.settings, 256).double())
    found = evaluate_layers(network, objective, IDS, (40, 90), CONTEXT, 8, np.array([60, 300]))
    terms = ["layer1.target1", "layer2.target1", "main", "layer3.target2", "layer3.target3"]
    assert [one.term for one in found] == terms
    bits, count = 0.0, 0
    for begin, last, first in ((40, 60, 0), (60, 90, 60)):  # the end of the first file divides the part
        for start, low, high in windows(begin, last, first):
            for place in range(max(low, first + 1), min(high, last - 2)):
                p_V = chained_prediction(network, objective, IDS[start : place + 2], place - start)
                bits -= math.log2(p_V[IDS[place + 2]])
                count += 1
    assert found[-1].characters == count
    assert found[-1].bits == pytest.approx(bits, rel=1e-5)


def chained_prediction(network, objective, ids_N, inputs) -> np.ndarray:
    """The probabilities of target 3 after `inputs` characters, of which its chain reads two more."""
    ids = torch.from_numpy(ids_N.astype(np.int64))[None]
    with torch.no_grad():
        final = network(ids[:, :inputs], output_hidden={3}).hidden[3]
        states = dict(objective.chained_states(network, final, ids, 3))
        return network.output(network.norm(states[3]))[0, -1].softmax(-1).numpy()


def test_chained_targets_past_the_end_of_the_text_are_left_out(network):
    settings = ObjectiveConfig(targets=3, target_heads="chained")
    objective = stirred(LanguageModelObjective(settings, network.settings, 256).double())
    found = [predictions_at(network, objective, IDS, 300 - left, CONTEXT, 8)[-1] for left in range(3)]
    assert [one.target for one in found] == [1, 2, 3]
    start = 298 - (window_start(298, CONTEXT, 8) + 8 - 1 - CONTEXT)
    np.testing.assert_allclose(found[2].p_V, chained_prediction(network, objective, IDS[298 - start :], start))


def test_refit_heads_are_scored_beside_trained_ones(network):
    """By layer, in its place: the same as a layer's own head with these weights."""
    objective = LanguageModelObjective(ObjectiveConfig(), network.settings, 256).double()
    stirred(objective)
    fitted = {2: stirred(torch.nn.Linear(network.settings.width, 256, bias=False).double())}
    found = evaluate_layers(network, objective, IDS, PART, CONTEXT, 8, refit_heads=fitted)
    terms = [one.term for one in found]
    assert terms[2:5] == ["layer2.target1", "layer2.target2", "layer2.refit"] and len(terms) == 7
    with torch.no_grad():
        objective.heads["layer2_target1"].weight.copy_(fitted[2].weight)
    again = {one.term: one for one in evaluate_layers(network, objective, IDS, PART, CONTEXT, 8)}
    assert found[4].bits == again["layer2.target1"].bits != found[2].bits
    assert (found[4].layer, found[4].target, found[4].characters) == (2, 1, again["layer2.target1"].characters)


def windows(begin, last, first):
    from charladder.evaluation import windows_to_score

    return list(windows_to_score((begin, last), CONTEXT, 8, first))


def test_layer_without_a_head_has_no_score(network):
    objective = LanguageModelObjective(ObjectiveConfig(intermediate=False), network.settings, 256).double()
    assert [one.term for one in evaluate_layers(network, objective, IDS, PART, CONTEXT, 8)] == [
        "main",
        "layer3.target2",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_exported_characters_are_those_scored(network, tmp_path, suffix):
    path = tmp_path / f"characters.{suffix}"
    with export_characters(path, Alphabet(), IDS) as each:
        score = scored_by(network)(CONTEXT, 8, each)
        assert not path.exists()
    if suffix == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = parquet.read_table(path).to_pylist()
    assert [row["place"] for row in rows] == list(range(*PART))
    assert sum(row["bits"] for row in rows) == pytest.approx(score.bits)
    assert [row["character"] for row in rows] == [bytes([i]).decode("utf-8", "replace") for i in IDS[slice(*PART)]]
    assert [row["id"] for row in rows] == IDS[slice(*PART)].tolist()


def test_export_overwrites_nothing_and_leaves_no_partial_file(network, tmp_path):
    old = tmp_path / "old.jsonl"
    old.write_text("mine")
    for name, sentence in (("old.jsonl", "exists"), ("x.csv", "must end in"), ("no/x.jsonl", "there is no folder")):
        with pytest.raises(UserError, match=sentence), export_characters(tmp_path / name, Alphabet(), IDS):
            pass
    with pytest.raises(KeyboardInterrupt), export_characters(tmp_path / "new.jsonl", Alphabet(), IDS):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"] and old.read_text() == "mine"
