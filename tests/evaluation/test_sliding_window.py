import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.evaluation import evaluate, windows_to_score
from charladder.generation import GenerationLoop
from charladder.inference.factory import open_runner
from charladder.model import Transformer
from helpers import predictor, small

CONTEXT = 16
IDS = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8)


@pytest.fixture(scope="module")
def network() -> Transformer:
    model = Transformer(small(context=CONTEXT), 256).double().eval()
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
            parameter.add_(0.2 * noise)
    return model


def naive(network: Transformer, begin: int, end: int) -> float:
    """The paper's protocol: one character at a time, each with a full context, nothing shared."""
    bits = 0.0
    for place in range(begin, end):
        if place == 0:
            bits += math.log2(256)
            continue
        context = torch.from_numpy(IDS[max(0, place - CONTEXT) : place].astype(np.int64))[None]
        with torch.no_grad():
            logits = network(context).logits_BTV[0, -1]
        bits -= float(logits.log_softmax(-1)[int(IDS[place])]) / math.log(2)
    return bits


@pytest.mark.parametrize("part", [(0, 60), (100, 160), (5, 40), (10, 11), (0, 1)])
def test_stride_one_equals_a_naive_loop(network, part):
    score = evaluate(predictor(network), IDS, part, CONTEXT, 1, 256)
    assert score.characters == part[1] - part[0]
    assert score.bits == pytest.approx(naive(network, *part), rel=1e-6)


@given(st.integers(0, 80), st.integers(1, 120), st.sampled_from([1, 7, 8, 16]))
def test_every_character_is_counted_once(begin, count, stride):
    scored = []
    for start, first, end in windows_to_score((begin, begin + count), CONTEXT, stride):
        assert end - 1 - start <= CONTEXT
        assert first > start
        assert start == 0 or first - start >= CONTEXT - stride + 1
        scored += range(first, end)
    assert scored == list(range(max(1, begin), begin + count))


@pytest.mark.parametrize("stride", [1, 7, CONTEXT // 2, CONTEXT])
def test_batching_changes_nothing(network, stride):
    wide = evaluate(predictor(network), IDS, (50, 170), CONTEXT, stride, 256)
    one = evaluate(predictor(network), IDS, (50, 170), CONTEXT, stride, 256, batch_characters=1)
    assert wide.characters == one.characters == 120
    assert wide.bits == pytest.approx(one.bits, rel=1e-6)


def test_half_stride_equals_generation(network):
    """The rule past the context: keep the last C/2, so that compression and serving know their bits beforehand."""
    network = network.float()
    writer, bits = GenerationLoop(open_runner(network), [[]], 0), math.log2(256)
    for place in range(1, 120):
        logits_V = torch.from_numpy(writer.prefill(writer.sequences, [[int(IDS[place - 1])]])[0])
        bits -= float(logits_V.log_softmax(-1)[int(IDS[place])]) / math.log(2)
    score = evaluate(predictor(network), IDS, (0, 120), CONTEXT, CONTEXT // 2, 256)
    network.double()
    assert score.bits == pytest.approx(bits, rel=1e-5)


def test_invalid_strides_and_parts_are_refused(network):
    for stride in (0, CONTEXT + 1, -3):
        with pytest.raises(UserError, match=f"stride is {stride}; it must be between 1"):
            evaluate(predictor(network), IDS, (0, 50), CONTEXT, stride, 256)
    with pytest.raises(UserError, match="no characters to score"):
        evaluate(predictor(network), IDS, (50, 50), CONTEXT, 1, 256)


@pytest.mark.parametrize("stride", [1, 8, 16])
@pytest.mark.parametrize("part", [(0, 200), (50, 170), (60, 61), (90, 91)])
def test_files_with_boundaries_are_separate_texts(network, part, stride):
    ends_F = np.array([60, 61, 90, 150, 200])
    score = evaluate(predictor(network), IDS, part, CONTEXT, stride, 256, ends_F=ends_F)
    assert score.characters == part[1] - part[0]
    bits, begin = 0.0, 0
    for end in ends_F:
        inside = (max(part[0], begin), min(part[1], int(end)))
        if inside[0] < inside[1]:
            alone = (inside[0] - begin, inside[1] - begin)
            bits += evaluate(predictor(network), IDS[begin:end], alone, CONTEXT, stride, 256).bits
        begin = int(end)
    assert score.bits == pytest.approx(bits, rel=1e-9)


def test_empty_file_counts_nothing(network):
    score = evaluate(predictor(network), IDS[:60], (0, 60), CONTEXT, 8, 256, ends_F=np.array([30, 30, 60]))
    assert score.characters == 60
