"""Log-likelihoods and texts of a run for evaluation harnesses, by the rules of `evaluate` and `generate`.

This module does not need a harness. Log-likelihoods are in nats.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from charladder.errors import UserError
from charladder.evaluation import ScoredCharacters, evaluate
from charladder.evaluation.head_predictions import window_start
from charladder.evaluation.sliding_window import check_stride
from charladder.generation.distribution import SamplingParams
from charladder.generation.text_generator import GenerationConfig, Prompt, TextGenerator
from charladder.model.config import MAX_SIZE
from charladder.run import Run

DEFAULT_LENGTH = 256  # characters of a text whose arguments do not limit it, as in lm-evaluation-harness
_LENGTH_NAMES = "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"
_SAMPLING_NAMES = "temperature", "top_k", "top_p", "min_p"
_ARGUMENTS = {"until", "do_sample", "seed", *_LENGTH_NAMES, *_SAMPLING_NAMES}
Number = TypeVar("Number", int, float)
_Text = tuple[list[int], int]  # its ids, and the position of the first that is scored


class HarnessModel:
    """Scores and continues texts with the network of a run.

    context, stride: of the sliding window, in characters (default: of the network, and half of it). prefix_token_id:
    the symbol that the network reads before a text without a context; None: the first character costs log2 of the
    alphabet's size, as in `evaluate`. Raises UserError for values that cannot be.
    """

    def __init__(
        self,
        run: Run,
        context: int | None = None,
        stride: int | None = None,
        prefix_token_id: int | None = None,
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        self.run, self.alphabet = run, run.alphabet
        for name, value in (("context", context), ("stride", stride), ("prefix_token_id", prefix_token_id)):
            if value is not None and type(value) is not int:
                raise UserError(field=name, value=value, rule="it must be a whole number")
        if context is not None and context > MAX_SIZE["context"]:
            raise UserError(
                field="context", value=context, rule=f"it must be at most {MAX_SIZE['context']:,} characters"
            )
        self.settings = GenerationConfig(
            sampling=SamplingParams(temperature=0), context=context, draft="none", device=device, batch_size=batch_size
        )
        self.generators = {self.settings.sampling: TextGenerator(run, self.settings)}
        self.network = self.generators[self.settings.sampling].network
        self.context = run.recipe.model.context if context is None else context
        self.stride = max(1, self.context // 2) if stride is None else stride
        check_stride(self.stride, self.context)
        if prefix_token_id is not None and not 0 <= prefix_token_id < self.alphabet.size:
            raise UserError(
                field="prefix_token_id", value=prefix_token_id,
                rule=f"it must be at least 0 and below {self.alphabet.size}, the size of the alphabet",
            )  # fmt: skip
        self.prefix = [] if prefix_token_id is None else [prefix_token_id]

    def encode(self, text: str, where: str) -> list[int]:
        """The ids of a text. Raises UserError for letters outside the alphabet, unless the run drops or replaces them,
        and for half a surrogate pair."""
        data = _to_bytes(text, where)
        return self.alphabet.encode(data, where, self.run.recipe.text.unknown).tolist()

    def loglikelihood(
        self, pairs: Iterable[tuple[str, str]], on_progress: Callable[[int], None] = lambda characters: None
    ) -> list[tuple[float, bool]]:
        """For pairs of a context and a continuation: the log-likelihood of the continuation, and whether each of its
        characters is the most likely one. A first character that is not predicted is never the most likely one.

        The result is that of an evaluation of context and continuation as one text. on_progress: called with the number
        of characters scored so far, of this pair and those before it.
        """
        texts = []
        for context, continuation in pairs:
            before = self.encode(context, "the context") or self.prefix
            texts.append(self._cut_context(before, self.encode(continuation, "the continuation")))
        return self._score(texts, on_progress)

    def loglikelihood_rolling(
        self, texts: Iterable[str], on_progress: Callable[[int], None] = lambda characters: None
    ) -> list[float]:
        """The log-likelihood of each text, as `evaluate` scores it."""
        encoded = [(self.prefix + self.encode(text, "the text"), len(self.prefix)) for text in texts]
        return [nats for nats, _ in self._score(encoded, on_progress)]

    def generate_until(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """Continues each context until a string of `until`, which is not part of the text, or for `max_gen_toks`
        characters. Greedy unless `do_sample` is true or left out, and the temperature is above 0. Contexts longer than
        the window are cut as in `generate`. Raises UserError for an unknown argument.
        """
        texts, groups = [""] * len(requests), {}
        for number, (context, arguments) in enumerate(requests):
            arguments = {name: value for name, value in arguments.items() if value is not None}
            sampling = _parse_sampling(arguments)
            groups.setdefault(sampling, []).append((number, self._make_prompt(context, arguments)))
        for sampling, group in groups.items():
            if sampling not in self.generators:
                settings = GenerationConfig(
                    sampling=sampling, context=self.settings.context, draft="none", device=self.settings.device,
                    batch_size=self.settings.batch_size,
                )  # fmt: skip
                self.generators[sampling] = TextGenerator(self.run, settings)
            generated = self.generators[sampling].generate([prompt for _, prompt in group])
            for (number, _), text in zip(group, generated, strict=True):
                texts[number] = text.text
        return texts

    def _make_prompt(self, context: str, arguments: Mapping[str, Any]) -> Prompt:
        length_name = next((name for name in _LENGTH_NAMES if name in arguments), "max_gen_toks")
        length = _number(arguments, length_name, DEFAULT_LENGTH)
        until = arguments.get("until") or ()
        listed = [until] if isinstance(until, str) else until
        if not isinstance(listed, list | tuple) or not all(isinstance(stop, str) for stop in listed):
            raise UserError(field="until", value=until, rule="it must be a string or a list of strings")
        letters = set(self.alphabet.letters)
        # An empty stop string ends nothing, and one with a letter outside the alphabet cannot occur.
        stops = [stop for stop in listed if stop and (not letters or set(stop) <= letters)]
        data, seed = _to_bytes(context, "the context"), _number(arguments, "seed", 0)
        return Prompt(data, length, seed, tuple(_to_bytes(stop, "a stop string") for stop in stops), "the context")

    def _cut_context(self, before: list[int], continuation: list[int]) -> _Text:
        """Context and continuation as one text, and the position of the continuation. The text begins with the first
        character that the predictions of the continuation read, so that the windows stay the same."""
        position, start = len(before), 0
        if position > self.context:
            start = window_start(position, self.context, self.stride) + self.stride - 1 - self.context
        return before[start:] + continuation, position - start

    def _score(
        self, texts: list[tuple[list[int], int]], on_progress: Callable[[int], None]
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each text from a position on, and whether each character is the most likely one.

        Texts are sorted by length, because `evaluate` batches windows of the same shape.
        """
        order = [n for n in sorted(range(len(texts)), key=lambda n: len(texts[n][0])) if texts[n][0]]
        if not order:
            return [(0.0, True)] * len(texts)
        ids_N = np.concatenate([np.array(texts[n][0], self.alphabet.dtype) for n in order])
        ends_F = np.cumsum([len(texts[n][0]) for n in order])
        nats_N, is_best_N = np.full(len(ids_N), math.log(self.alphabet.size)), np.zeros(len(ids_N), bool)

        def record(scored: ScoredCharacters) -> None:
            nats_N[scored.positions_M] = scored.nats_M
            is_best_N[scored.positions_M] = scored.ranks_M == 0

        evaluate(
            lambda tokens_BT, keep: self.network(tokens_BT, logits_to_keep=keep).logits_BTV, ids_N, (0, len(ids_N)),
            self.context, self.stride, self.alphabet.size, self.network.output.weight.device,
            on_progress=lambda characters, _: on_progress(characters), ends_F=ends_F, on_scored=record,
        )  # fmt: skip
        results = [(0.0, True)] * len(texts)
        for n, end in zip(order, ends_F, strict=True):
            ids, position = texts[n]
            scored = slice(int(end) - len(ids) + position, int(end))
            results[n] = 0.0 - float(nats_N[scored].sum()), bool(is_best_N[scored].all())
        return results


def _to_bytes(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has half a surrogate pair at position {error.start}; remove it") from None


def _parse_sampling(arguments: Mapping[str, Any]) -> SamplingParams:
    unknown = sorted(set(arguments) - _ARGUMENTS)
    if unknown:
        raise UserError(
            f"the argument {unknown[0]} of generation is not known; known are {', '.join(sorted(_ARGUMENTS))}"
        )
    temperature = _number(arguments, "temperature", 1.0 if arguments.get("do_sample") else 0.0)
    if temperature == 0 or arguments.get("do_sample") is False:
        return SamplingParams(temperature=0)
    return SamplingParams(
        temperature, _number(arguments, "top_k", 0), _number(arguments, "top_p", 1.0), _number(arguments, "min_p", 0.0)
    )


def _number(arguments: Mapping[str, Any], name: str, default: Number) -> Number:
    """The argument as a number of the type of its default. Raises UserError if it is none."""
    value = arguments.get(name, default)
    try:
        return type(default)(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(field=name, value=value, rule="it must be a number") from None
