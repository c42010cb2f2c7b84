"""Scores of lines and files equal those of `evaluate`, and of the network run on each prefix."""

import math
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from charladder.cli.score_output import RowOutput
from charladder.errors import UserError
from charladder.evaluation import ScoredCharacters, evaluate
from charladder.model import Transformer
from charladder.scoring import LineScorer, RowMaker, ScoredLine, TextLine, score_files
from charladder.scoring.rows import most_surprising_span
from charladder.text import Alphabet, open_corpus
from helpers import predictor, small

CONTEXT, STRIDE = 16, 8
LINES = [b"", b"a", b"a ladder", b"\xff\xfe bytes", b"longer than the context, twice " * 3, b"exactly context ", b"b"]


@pytest.fixture(scope="module")
def network() -> Transformer:
    network = Transformer(small(layers=2, width=16), 256, seed=1).eval()
    with torch.no_grad():  # a new network predicts nearly uniformly
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def score_lines(network: Transformer, lines: list[bytes], start: bytes = b"\n", **options) -> list[ScoredLine]:
    scorer = LineScorer(predictor(network), Alphabet(), CONTEXT, STRIDE, list(start), with_entropy=True, **options)
    return scorer.score([TextLine("log", n, line + b"\n", True) for n, line in enumerate(lines, 1)])


def evaluate_bits(network: Transformer, data: bytes) -> tuple[float, np.ndarray, np.ndarray]:
    """The bits of all characters; of each but the first its bits, and the number of characters before it."""
    pieces: list[ScoredCharacters] = []
    ids, options = np.frombuffer(data, np.uint8), (CONTEXT, STRIDE, 256)
    score = evaluate(predictor(network), ids, (0, len(data)), *options, on_scored=pieces.append)
    nats = np.concatenate([piece.nats_M for piece in pieces])
    return score.bits, nats / math.log(2), np.concatenate([piece.context_M for piece in pieces])


def test_a_line_is_scored_as_a_text_that_begins_with_a_newline(network):
    for scored, line in zip(score_lines(network, LINES), LINES, strict=True):
        assert bytes(scored.ids_M) == line + b"\n" and scored.has_end and scored.characters == len(line)
        total, bits, seen = evaluate_bits(network, b"\n" + line + b"\n")
        assert scored.bits_M == pytest.approx(bits, abs=1e-6)
        assert scored.bits_M.sum() == pytest.approx(total - 8, rel=1e-6)
        assert scored.seen_M.tolist() == seen.tolist()


def test_scores_equal_the_network_on_each_prefix(network):
    (scored,) = score_lines(network, [b"a ladder"])
    text = b"\na ladder\n"
    for place in range(1, len(text)):
        with torch.no_grad():
            logits_V = network(torch.tensor([list(text[:place])])).logits_BTV[0, -1].double()
        p_V = logits_V.softmax(0)
        assert scored.bits_M[place - 1] == pytest.approx(-math.log2(p_V[text[place]]), abs=1e-5)
        assert scored.ranks_M[place - 1] == int((p_V > p_V[text[place]]).sum())
        assert scored.entropy_M is not None
        assert scored.entropy_M[place - 1] == pytest.approx(float(-(p_V * p_V.log2()).sum()), abs=1e-5)


def test_the_score_of_a_line_does_not_depend_on_its_neighbours(network):
    together = score_lines(network, LINES)
    for scored, line in zip(together, LINES, strict=True):
        (alone,) = score_lines(network, [line])
        assert scored.bits_M == pytest.approx(alone.bits_M, abs=1e-6)


def test_without_a_start_the_first_character_counts_as_drawn_uniformly(network):
    (scored,) = score_lines(network, [b"ab"], start=b"")
    assert (scored.bits_M[0], scored.seen_M.tolist()) == (8, [0, 1, 2])
    assert scored.bits_M.sum() == pytest.approx(evaluate_bits(network, b"ab\n")[0], rel=1e-6)


def test_files_are_scored_as_evaluate_scores_them(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [b"x", b"one line\nanother " + b"which is long " * 9 + b"\n\nthe last has no end", b"end\n"]
    for number, text in enumerate(texts):
        Path(f"{number}.txt").write_bytes(text)
    corpus, lines = open_corpus(["0.txt", "1.txt", "2.txt"]), []
    score_files(predictor(network), corpus, CONTEXT, STRIDE, "cpu", lines.extend, with_entropy=True)
    assert [(line.file, line.line) for line in lines] == [
        ("0.txt", 1), ("1.txt", 1), ("1.txt", 2), ("1.txt", 3), ("1.txt", 4), ("2.txt", 1),
    ]  # fmt: skip
    for number, text in enumerate(texts):
        of_file = [line for line in lines if line.file == f"{number}.txt"]
        assert b"".join(bytes(line.ids_M) for line in of_file) == text
        assert [line.place for line in of_file] == [0, *np.cumsum([len(line.ids_M) for line in of_file])[:-1]]
        bits = np.concatenate([line.bits_M for line in of_file])
        assert bits[0] == 8
        if len(text) > 1:
            total, others, _ = evaluate_bits(network, text)
            assert bits[1:] == pytest.approx(others, abs=1e-6) and bits.sum() == pytest.approx(total, rel=1e-6)


def test_a_long_line_comes_in_pieces_or_is_refused(network, tmp_path, monkeypatch):
    monkeypatch.setattr("charladder.scoring.whole_files.MAX_LINE_BYTES", 50)
    path = tmp_path / "text"
    path.write_bytes(b"short\n" + b"x" * 300 + b"\nshort")
    corpus, lines = open_corpus([str(path)]), []
    score_files(predictor(network), corpus, CONTEXT, STRIDE, "cpu", lines.extend, allow_pieces=True)
    assert b"".join(bytes(line.ids_M) for line in lines) == path.read_bytes()
    assert lines[0].line == 1 and {line.line for line in lines[1:-1]} == {2}
    with pytest.raises(UserError, match="line 2 has more than 50 symbols"):
        score_files(predictor(network), corpus, CONTEXT, STRIDE, "cpu", lines.extend)


def test_batches_of_a_small_alphabet_are_bounded():
    """Its logits are few, and the activations of a position as many as with bytes."""
    shapes = []

    def predict(tokens_BT: torch.Tensor, count: int) -> torch.Tensor:
        shapes.append(tokens_BT.numel())
        return torch.zeros(len(tokens_BT), count, 4)

    lines = [TextLine("dna", n, b"acgt" * 8) for n in range(1, 2000)]
    scored = LineScorer(predict, Alphabet("acgt"), CONTEXT, STRIDE).score(lines)
    assert np.concatenate([line.bits_M for line in scored]) == pytest.approx(2)
    assert len(shapes) > 2 and max(shapes) <= 16384


def test_the_rows_of_a_long_line_are_written_in_parts():
    """As numbers of Python they take more memory than the line: 440 bytes for each character."""
    count, parts = 150_000, []
    ids, counted = np.arange(count, dtype=np.uint8), np.arange(count)
    line = ScoredLine("log", 1, 7, ids, False, counted.astype(float), counted, counted, counted / 2)
    output = RowOutput(RowMaker("character", Alphabet(), 16, True), parts.append, None)
    output.consume([line])
    output.finish()
    assert [len(part["id"]) for part in parts] == [65536, 65536, count - 2 * 65536]
    columns = {name: list(chain.from_iterable(part[name] for part in parts)) for name in parts[0]}
    assert columns["place"] == list(range(7, 7 + count)) and columns["id"] == ids.tolist()
    assert columns["bits"] == columns["seen"] == counted.tolist()
    assert columns["entropy"] == (counted / 2).tolist()


@pytest.mark.parametrize("length", [1, 3, 10, 50])
def test_the_most_surprising_span(length):
    bits = np.random.default_rng(length).exponential(size=20)
    begin, end, total = most_surprising_span(bits, length)
    sums = [bits[n : n + length].sum() for n in range(max(1, 21 - length))]
    assert (begin, end - begin) == (int(np.argmax(sums)), min(length, 20))
    assert total == pytest.approx(max(sums))
