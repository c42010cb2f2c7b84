"""The answers of `/v1/completions`: generated symbols as OpenAI's choices, log-probabilities and usage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charladder.serving.generation_request import GenerationRequest, OutputChunk
from charladder.serving.tokens import IncrementalDecoder, Tokenizer


@dataclass
class ChoiceState:
    """One choice of a request while it is generated. prompt: the text that `echo` puts before it. logprobs: how many
    candidates a position lists; None for no log-probabilities. characters: those formatted so far."""

    index: int
    request: GenerationRequest
    prompt: str | None
    decoder: IncrementalDecoder
    logprobs: int | None
    draft: str
    characters: int = 0
    finish_reason: str | None = None


def format_choice(tokenizer: Tokenizer, choice: ChoiceState, chunk: OutputChunk) -> dict[str, Any]:
    """A chunk as an item of OpenAI's `choices`."""
    decoded = choice.decoder.add(chunk.ids, chunk.drafted, chunk.finish_reason is not None)
    choice.characters += len(chunk.ids)
    choice.finish_reason = "length" if chunk.finish_reason == "time" else chunk.finish_reason
    extras: dict[str, Any] = {"characters": len(chunk.ids), "drafted": decoded.marks}
    if chunk.finish_reason:
        extras |= {"ended_by": chunk.finish_reason} | _speed(choice)
    logprobs = format_logprobs(tokenizer, choice, chunk.ids, chunk.nats, chunk.top_candidates, decoded.offsets)
    return {
        "index": choice.index,
        "text": decoded.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "charladder": extras,
    }


def format_logprobs(
    tokenizer: Tokenizer,
    choice: ChoiceState,
    ids: Sequence[int],
    nats: Sequence[float | None],
    top_candidates: Sequence[list[tuple[int, float]]],
    offsets: list[int],
) -> dict[str, Any] | None:
    """OpenAI's `logprobs` of these symbols; None if the request does not ask for them."""
    if choice.logprobs is None:
        return None
    top_logprobs = None
    if choice.logprobs:
        top_logprobs = [
            None if own is None else {tokenizer.token_string(n): logprob for n, logprob in [*candidates, (symbol, own)]}
            for symbol, own, candidates in zip(ids, nats, top_candidates, strict=True)
        ]
    return {
        "tokens": [tokenizer.token_string(symbol) for symbol in ids],
        "token_logprobs": list(nats),
        "top_logprobs": top_logprobs,
        "text_offset": offsets,
    }


def format_echo(choice: ChoiceState, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    """The echoed prompt of a choice, as the first item of a stream."""
    extras = {"characters": 0, "drafted": "0" * len(choice.prompt or "")}
    text = {"index": choice.index, "text": choice.prompt, "logprobs": logprobs, "finish_reason": None}
    return text | {"charladder": extras}


def prepend_prompt(
    prompt: str | None, prompt_logprobs: dict[str, Any] | None, choice: dict[str, Any]
) -> dict[str, Any]:
    """A formatted choice with its echoed prompt before it; unchanged without `echo`."""
    if prompt is None:
        return choice
    logprobs = choice["logprobs"]
    if prompt_logprobs is not None and logprobs is not None:
        logprobs = {
            name: None if values is None else values + logprobs[name] for name, values in prompt_logprobs.items()
        }
    extras = choice["charladder"] | {"drafted": "0" * len(prompt) + choice["charladder"]["drafted"]}
    return choice | {"text": prompt + choice["text"], "logprobs": logprobs, "charladder": extras}


def format_usage(choices: Sequence[ChoiceState], n: int) -> dict[str, int]:
    """Numbers of symbols; a prompt counts once for its `n` choices."""
    prompt = sum(len(choice.request.prompt) for choice in choices[::n])
    completion = sum(choice.characters for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _speed(choice: ChoiceState) -> dict[str, Any]:
    """The speed of a finished text, from when it joined its batch."""
    request, sequence = choice.request, choice.request.sequence
    seconds = max(1e-9, request.finished_at - request.started_at)
    return {
        "seconds": seconds,
        "characters_per_second": choice.characters / seconds if sequence is not None else 0.0,
        "accepted_per_pass": sequence.emitted / sequence.passes if sequence is not None and sequence.passes else 1.0,
        "draft": choice.draft,
    }
