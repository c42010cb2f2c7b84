"""Limits of the service."""

from dataclasses import dataclass

from charladder.errors import UserError


@dataclass(frozen=True)
class Limits:
    """streams: texts decoded at once. waiting: texts in the queue. prompt, max_tokens, score, stop: characters of each.
    choices: texts of one request. logprobs: log-probabilities of one answer. body_bytes: of one body. head_bytes: of a
    request's line and headers. connections: open at once. requests: answered at once, of all kinds. scorings: requests
    for scores in the queue. seconds: for a request from its arrival. client_seconds: for a client to send its head,
    then its body, and to receive each part of the answer."""

    streams: int = 64
    waiting: int = 512
    prompt: int = 100_000
    max_tokens: int = 20_000
    score: int = 100_000
    choices: int = 64
    stop: int = 128
    logprobs: int = 500_000
    body_bytes: int = 4 << 20
    head_bytes: int = 1 << 16
    connections: int = 2048
    requests: int = 1024
    scorings: int = 32
    seconds: float = 300.0
    client_seconds: float = 20.0

    def __post_init__(self) -> None:
        if not 1 <= self.streams <= 4096:
            raise UserError(field="streams", value=self.streams, rule="it must be between 1 and 4,096 texts at once")
        if not 1 <= self.max_tokens <= 1 << 24:
            rule = "it must be between 1 and 16,777,216 characters"
            raise UserError(field="max_tokens", value=self.max_tokens, rule=rule)
        if not 0 < self.seconds < 1e6:
            raise UserError(field="seconds", value=self.seconds, rule="it must be above 0 and below a million")
