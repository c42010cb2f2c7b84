"""Log-likelihoods and texts for harnesses, against the network itself, `evaluate` and `generate`."""

import math
import random

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.evaluation import evaluate
from charladder.export import import_hugging_face, write_hugging_face
from charladder.export.harness_model import HarnessModel
from charladder.generation.distribution import SamplingParams
from charladder.generation.text_generator import GenerationConfig, TextGenerator
from charladder.text import Alphabet
from export.networks import varied_network
from helpers import PROSE, predictor

CONTEXT = 16


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    def make(letters="", unknown="error"):
        folder, network = tmp_path_factory.mktemp("run"), varied_network(len(letters) or 256, context=CONTEXT)
        write_hugging_face(
            folder / "hf", network.settings, network.state_dict(), Alphabet(letters), unknown, "float32", ""
        )
        return import_hugging_face(folder / "hf", folder / "run")

    return make


@pytest.fixture(scope="module")
def run(make_run):
    return make_run()


def nats_of_all(run, data: bytes, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The negative log-likelihood of every byte, from its definition: one pass for each; and whether it is the most
    likely one. Position p is predicted from p bytes, or from C - S + 1 to C in the windows after the first."""
    network, nats_N, is_best_N = run.load_network(), [math.log(256)], [False]
    for position in range(1, len(data)):
        start = 0
        if position > CONTEXT:
            start = stride * -(-(position - CONTEXT) // stride)
        with torch.inference_mode():
            logits_V = network(torch.tensor([[*data[start:position]]])).logits_BTV[0, -1].double()
        nats_N.append(float(torch.logsumexp(logits_V, 0) - logits_V[data[position]]))
        is_best_N.append(int(logits_V.argmax()) == data[position])
    return np.array(nats_N), np.array(is_best_N)


@pytest.mark.parametrize("stride", [1, 5, None, CONTEXT])
def test_loglikelihoods_are_those_of_the_definition(run, stride):
    model = HarnessModel(run, stride=stride)
    text = PROSE[:45]
    nats_N, _ = nats_of_all(run, text.encode(), stride or CONTEXT // 2)
    cuts = [0, 1, 9, CONTEXT - 1, CONTEXT, CONTEXT + 1, CONTEXT + 2, 30, 41, 44, 45]
    found = model.loglikelihood((text[:cut], text[cut:]) for cut in cuts)
    for cut, (nats, _) in zip(cuts, found, strict=True):
        assert nats == pytest.approx(-nats_N[cut:].sum(), rel=1e-6, abs=1e-9), cut
    assert found[-1] == (0.0, True)
    assert model.loglikelihood_rolling([text, "", text[:7]]) == pytest.approx(
        [-nats_N.sum(), 0, -nats_N[:7].sum()], rel=1e-6
    )


def test_rolling_is_evaluate_and_a_prefix_is_the_first_character(run):
    data = PROSE.encode()
    score = evaluate(
        predictor(run.load_network()), np.frombuffer(data, np.uint8), (0, len(data)), CONTEXT, CONTEXT // 2, 256
    )
    (nats,) = HarnessModel(run).loglikelihood_rolling([PROSE])
    assert -nats / math.log(2) == pytest.approx(score.bits, rel=1e-7)
    with_prefix = HarnessModel(run, prefix_token_id=data[0])
    (nats,) = with_prefix.loglikelihood_rolling([PROSE[1:]])
    assert 8 - nats / math.log(2) == pytest.approx(score.bits, rel=1e-7)
    assert with_prefix.loglikelihood([("", PROSE[1:])])[0][0] == pytest.approx(nats, rel=1e-7)


def test_greedy_flag_is_that_of_the_greedy_text(run):
    model = HarnessModel(run)
    contexts = ["The ladder", "x", "leans on the wall, "]
    greedy = [t.ids for t in TextGenerator(run, model.settings).generate([c.encode() for c in contexts])]
    for context, ids in zip(contexts, greedy, strict=True):
        room = CONTEXT - len(context)
        likely = bytes(ids[: max(1, room)]).decode("latin-1")
        if not likely.isascii():  # the harness gives texts, and a byte that is not ASCII is no text
            likely = likely[: next(n for n, c in enumerate(likely) if not c.isascii())]
        other = (likely[:-1] + chr(ord(likely[-1]) ^ 1)) if likely else "a"
        flags = [flag for _, flag in model.loglikelihood([(context, likely), (context, other)])]
        assert flags == [True, False]
    text = PROSE[:30]
    _, is_best_N = nats_of_all(run, text.encode(), CONTEXT // 2)
    flags = model.loglikelihood((text[:n], text[n]) for n in range(1, 30))
    assert [flag for _, flag in flags] == is_best_N[1:].tolist()
    assert model.loglikelihood([("", "a")]) == [(-math.log(256), False)]


def test_many_texts_are_scored_as_each_alone(run):
    draw = random.Random(0)
    pairs = [(PROSE[: draw.randrange(50)], PROSE[: draw.randrange(30)]) for _ in range(12)]
    model, done = HarnessModel(run), []
    together = model.loglikelihood(pairs, done.append)
    alone = [model.loglikelihood([pair])[0] for pair in pairs]
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], rel=1e-5, abs=1e-9)
    assert [flag for _, flag in together] == [flag for _, flag in alone]
    assert done == sorted(done) and len(done) > 0


def test_generate_until_equals_generate_and_ends_at_stop_strings(make_run):
    run = make_run(" abcdefghijklmnopqrstuvwxyz", "drop")
    model = HarnessModel(run)
    context = "the ladder leans on the wall and every rung of it"  # longer than the window
    greedy = GenerationConfig(length=40, sampling=SamplingParams(temperature=0), draft="none")
    (expected,) = (text.text for text in TextGenerator(run, greedy).generate([context.encode()]))
    stop = expected[20:23]
    until = ["ß", "", stop]  # ß is not in the alphabet
    requests = [
        (context, {"max_gen_toks": 40}),
        (context, {"until": until, "max_gen_toks": 40, "do_sample": False, "temperature": 0.7}),
        (context, {"until": stop, "max_new_tokens": 40}),
        (context, {"until": [], "max_gen_toks": 0}),
        (context, {"do_sample": True, "temperature": 1.0, "max_gen_toks": 40, "seed": 1}),
        ("", {"max_gen_toks": 3}),
    ]
    texts = model.generate_until(requests)
    cut = expected[: expected.index(stop)]
    assert texts[:4] == [expected, cut, cut, ""]
    sampled = GenerationConfig(length=40, seed=1, draft="none")
    assert [texts[4]] == [text.text for text in TextGenerator(run, sampled).generate([context.encode()])]
    assert len(texts[5]) == 3
    assert len(model.generate_until([(context, {})])[0]) == 256


def test_letters_outside_the_alphabet_and_wrong_arguments(make_run, run):
    lettered = HarnessModel(make_run(" abc"))
    with pytest.raises(UserError, match="the continuation has the character 'x'"):
        lettered.loglikelihood([("ab", "x")])
    dropping = HarnessModel(make_run(" abc", "drop"))
    assert dropping.loglikelihood([("abx", "xc")]) == dropping.loglikelihood([("ab", "c")])
    for options, sentence in [
        ({"stride": 17}, "stride is 17; it must be between 1 and the context, 16"),
        ({"prefix_token_id": 256}, "prefix_token_id is 256; it must be at least 0 and below 256"),
        ({"context": 1}, "context is 1; it must be at least 2"),
        ({"context": 10**9}, "context is 1000000000; it must be at most"),
        ({"context": 2.5}, "context is 2.5; it must be a whole number"),
        ({"stride": "half"}, "stride is 'half'; it must be a whole number"),
        ({"prefix_token_id": "a"}, "prefix_token_id is 'a'; it must be a whole number"),
    ]:
        with pytest.raises(UserError, match=sentence):
            HarnessModel(run, **options)
    model = HarnessModel(run)
    for call in (
        lambda: model.loglikelihood([("\ud800", "a")]),
        lambda: model.generate_until([("\ud800", {})]),
    ):
        with pytest.raises(UserError, match="the context has half a surrogate pair at position 0"):
            call()
    for arguments, sentence in [
        ({"num_beams": 2}, "the argument num_beams of generation is not known"),
        ({"max_new_tokens": "many"}, "max_new_tokens is 'many'; it must be a number"),
        ({"temperature": []}, "temperature is .*; it must be a number"),
        ({"until": 5}, "until is 5; it must be a string or a list of strings"),
        ({"until": ["a", 5]}, "until is .*; it must be a string or a list of strings"),
    ]:
        with pytest.raises(UserError, match=sentence):
            model.generate_until([("a", arguments)])
    nothing = dict.fromkeys(("until", "temperature", "max_gen_toks", "seed", "top_p", "do_sample"))
    assert model.generate_until([("a", nothing)]) == model.generate_until([("a", {})])
