"""Scores of texts, and the predictions of every head at one position. One request at a time, in a thread.

Shapes: N symbols.
"""

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from charladder.auxiliary import term_name
from charladder.evaluation import ScoredCharacters, evaluate
from charladder.evaluation.head_predictions import HeadPrediction, predictions_at, window_start
from charladder.evaluation.last_learned import last_learned
from charladder.evaluation.layers import evaluate_layers
from charladder.generation.distribution import NOT_FINITE, top_candidates
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.run import Run
from charladder.serving.api_errors import SHUTTING_DOWN, APIError
from charladder.serving.limits import Limits
from charladder.serving.tokens import Tokenizer

_NUM_CANDIDATES = 5  # shown for each head
_MAX_BATCH_CHARACTERS = 4096  # between two checks for cancellation


class RequestCancelled(Exception):
    """The client has disconnected."""


def _to_finite_list(numbers_N: np.ndarray) -> list[float]:
    """As a list. Raises APIError for NaN and infinities."""
    if not np.isfinite(numbers_N).all():
        raise APIError(500, NOT_FINITE)
    return numbers_N.tolist()


class Scorer:
    """Scores texts with a run's network and, if the run has them, its heads."""

    def __init__(self, run: Run, network: Transformer, tokenizer: Tokenizer, limits: Limits) -> None:
        self.network, self.tokenizer, self.limits = network, tokenizer, limits
        self.context = run.recipe.model.context
        self.stride = max(1, self.context // 2)
        self.layers = run.recipe.model.layers
        self.objective: LanguageModelObjective | None = None
        if run.heads_path.is_file():
            self.objective = run.load_objective().to(network.output.weight.device).eval()
        self.last_learned = last_learned(run)
        self.executor = ThreadPoolExecutor(1, "scoring")
        self.num_requests = 0
        self.is_closing = threading.Event()

    async def run(self, deadline: float, method: Any, *arguments: Any) -> Any:
        """The result of a method of this class, run in its thread. Cancelling it ends the thread's work soon. Raises
        APIError and UserError."""
        if self.is_closing.is_set():
            raise APIError(503, SHUTTING_DOWN)
        if self.num_requests >= self.limits.scorings:
            raise APIError(429, "too many texts are being scored; try again later")
        is_cancelled = threading.Event()

        def check(*_: Any) -> None:
            if is_cancelled.is_set():
                raise RequestCancelled
            if self.is_closing.is_set():
                raise APIError(503, SHUTTING_DOWN)
            if time.monotonic() > deadline:
                raise APIError(408, f"scoring takes longer than {self.limits.seconds:g} seconds; send a shorter text")

        def work() -> Any:
            if time.monotonic() > deadline and not is_cancelled.is_set():
                raise APIError(503, f"scoring did not begin within {self.limits.seconds:g} seconds; try again later")
            check()
            return partial(method, *arguments)(check)

        self.num_requests += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.executor, work)
        finally:
            is_cancelled.set()
            self.num_requests -= 1

    def close(self) -> None:
        """Ends all requests at their next check."""
        self.is_closing.set()
        self.executor.shutdown(wait=False)

    def score(self, ids: list[int], begin: int, end: int, layers: bool, check: Any) -> dict[str, Any]:
        """The bits of the symbols from `begin` to `end`, and with `layers` those of every head. They equal those of an
        evaluation of the whole text at stride C/2, so they do not depend on `begin`."""
        started_at = time.perf_counter()
        ids_N = np.array(ids, np.int64)
        bits_N = np.zeros(len(ids))
        bits_N[:1] = math.log2(self.tokenizer.alphabet.size)
        part = (0 if begin == 0 else window_start(begin, self.context, self.stride), end)

        def record(scored: ScoredCharacters) -> None:
            bits_N[scored.positions_M] = scored.nats_M / math.log(2)

        result: dict[str, Any] = {}
        if part[0] < end:
            evaluate(
                lambda tokens_BT, keep: self.network(tokens_BT, logits_to_keep=keep).logits_BTV, ids_N, part,
                self.context, self.stride, self.tokenizer.alphabet.size, self.network.output.weight.device,
                _MAX_BATCH_CHARACTERS, check, on_scored=record,
            )  # fmt: skip
        if layers:
            result["layers"] = self._score_layers(ids_N, part, begin, end, check)
        bits = _to_finite_list(bits_N[begin:end])
        return {
            "characters": len(bits),
            "begin": begin,
            "bits": bits,
            "total_bits": math.fsum(bits),
            "bits_per_character": math.fsum(bits) / len(bits) if bits else 0.0,
            "context": self.context,
            "stride": self.stride,
            "seconds": time.perf_counter() - started_at,
        } | result

    def prompt_logprobs(
        self, ids: list[int], num_candidates: int, check: Any
    ) -> tuple[list[float], list[list[tuple[int, float]]]]:
        """Of every symbol but the first: its log-probability, and the most likely candidates with theirs."""
        ids_N, nats, candidates = np.array(ids, np.int64), [0.0] * len(ids), [[] for _ in ids]
        last: list[list[tuple[int, float]]] = []  # of the windows that `record` receives next

        def predict(tokens_BT: Tensor, keep: int) -> Tensor:
            logits_BTV = self.network(tokens_BT, logits_to_keep=keep).logits_BTV
            last[:] = (
                top_candidates(logits_BTV.flatten(0, 1), num_candidates)
                if num_candidates
                else [[]] * logits_BTV[..., 0].numel()
            )
            return logits_BTV

        def record(scored: ScoredCharacters) -> None:
            for place, place_nats, best in zip(scored.positions_M.tolist(), scored.nats_M.tolist(), last, strict=True):
                nats[place], candidates[place] = -place_nats, best

        evaluate(
            predict, ids_N, (0, len(ids)), self.context, self.stride, self.tokenizer.alphabet.size,
            self.network.output.weight.device, _MAX_BATCH_CHARACTERS, check, on_scored=record,
        )  # fmt: skip
        _to_finite_list(np.array(nats))
        return nats[1:], candidates[1:]

    def _score_layers(
        self, ids_N: np.ndarray, part: tuple[int, int], begin: int, end: int, check: Any
    ) -> list[dict[str, Any]]:
        """For each head the bits of every symbol; None at the first positions, which it does not predict."""
        bits_of_heads: dict[tuple[int, int], list[float | None]] = {}

        def record(layer: int, target: int, places_M: np.ndarray, nats_M: np.ndarray) -> None:
            bits = bits_of_heads.setdefault((layer, target), [None] * (end - begin))
            for place, nats in zip(places_M.tolist(), nats_M.tolist(), strict=True):
                if begin <= place < end:
                    bits[place - begin] = nats / math.log(2)

        if self.objective is None:
            sentence = "this run has no heads.safetensors, so its layers predict nothing; leave out `layers`"
            raise APIError(400, sentence, "layers")
        if part[0] < end:
            evaluate_layers(self.network, self.objective, ids_N, part, self.context, self.stride, None, check, record)
        return [
            {"term": term_name(layer, k, self.layers), "layer": layer, "target": k, "bits": bits_of_heads[layer, k]}
            for layer, k in sorted(bits_of_heads)
        ]

    def predictions_at(self, ids: list[int], place: int, check: Any) -> dict[str, Any]:
        """What every head predicts at `place` and after it, from the text before."""
        ids_N = np.array(ids, np.int64)
        heads: dict[int, list[dict[str, Any]]] = {layer: [] for layer in range(1, self.layers + 1)}
        bits: float | None = None
        if place:
            for prediction in predictions_at(self.network, self.objective, ids_N, place, self.context, self.stride):
                _to_finite_list(prediction.p_V)
                if (prediction.layer, prediction.target) == (self.layers, 1) and place < len(ids):
                    bits = max(0.0, -math.log2(max(prediction.p_V[ids[place]], 1e-300)))
                heads[prediction.layer].append(self._describe_head(prediction, ids, place))
        elif ids:
            bits = math.log2(self.tokenizer.alphabet.size)
        return {
            "place": place,
            "symbol": self._describe_symbol(ids[place]) if place < len(ids) else None,
            "bits": bits,
            "note": None
            if place
            else "the first character has no text before it and is scored as a uniform draw from the alphabet",
            "rows": [{"layer": layer, "heads": layer_heads} for layer, layer_heads in heads.items()],
        }

    def _describe_head(self, prediction: HeadPrediction, ids: list[int], place: int) -> dict[str, Any]:
        position = place + prediction.target - 1
        actual = None
        if position < len(ids):
            symbol = ids[position]
            actual = self._describe_symbol(symbol) | {
                "probability": float(prediction.p_V[symbol]),
                "rank": prediction.rank(symbol),
            }
        learned = self.last_learned.get(prediction.term)
        return {
            "term": prediction.term,
            "target": prediction.target,
            "last_learned": None if learned is None or learned.head is None else asdict(learned.head),
            "actual": actual,
            "likeliest": [
                self._describe_symbol(n) | {"probability": float(prediction.p_V[n])}
                for n in prediction.top_ids(_NUM_CANDIDATES)
            ],
        }

    def _describe_symbol(self, symbol: int) -> dict[str, Any]:
        return {"id": symbol, "text": self.tokenizer.token_string(symbol, "")}
