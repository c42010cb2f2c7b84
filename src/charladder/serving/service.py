"""A run that is loaded for serving: its scheduler, scorer and tokenizer."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from fastapi import Request

from charladder.inference.factory import open_runner
from charladder.inference.packed_runner import PackedRunner
from charladder.inference.runner import ModelRunner
from charladder.model.transformer import Transformer
from charladder.run import Run
from charladder.serving.api_errors import APIError
from charladder.serving.completions import Completions
from charladder.serving.decoding_configs import DecodingConfigs
from charladder.serving.event_stream import run_while_connected
from charladder.serving.limits import Limits
from charladder.serving.request_bodies import parse_body
from charladder.serving.scheduler import Scheduler
from charladder.serving.schemas import RequestModel, TextRequest
from charladder.serving.scoring import Scorer
from charladder.serving.tokens import Tokenizer
from charladder.training.devices import choose_device

# Products of a pass from which on all threads share it. The event loop needs a core now and then, and waiting for a
# thread that has lost its core takes longer than a small pass (docs/decisions/0043).
_MIN_SHARED_PRODUCTS = 20_000_000
MIN_STREAMS_PER_WORKER = 8  # so that Python's cost of a step is shared by as many texts
_MAX_INLINE_BODY_BYTES = 1 << 14  # parsed in the event loop, in about a millisecond
Body = TypeVar("Body", bound=RequestModel)
Prepared = TypeVar("Prepared")


@dataclass
class Service:
    """A run's network, packed for decoding and as a module for scoring, and what answers requests with it."""

    name: str
    run: Run
    scheduler: Scheduler
    scorer: Scorer
    tokenizer: Tokenizer
    completions: Completions
    limits: Limits
    token: str | None
    started_at: float
    parse_executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "parse"))

    async def parse(
        self, request: Request, model: type[Body], prepare: Callable[[Body], Prepared]
    ) -> tuple[Body, Prepared]:
        """The validated body of a request, and what `prepare` makes of it. A large body is parsed in a thread, one
        at a time. Raises APIError and UserError."""
        data = await request.body()

        def work() -> tuple[Body, Prepared]:
            body = parse_body(data, model)
            return body, prepare(body)

        if len(data) <= _MAX_INLINE_BODY_BYTES:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.parse_executor, work)

    def encode_text(self, body: TextRequest) -> list[int]:
        """The text of a request as ids. Raises APIError and UserError."""
        if (body.text is None) == (body.ids is None):
            raise APIError(400, "send either `text` or `ids`", "text")
        if body.text is None:
            field, ids = "ids", self.tokenizer.check_ids(body.ids or [], "ids")
        else:
            field, ids = "text", self.tokenizer.encode(body.text, "text")
        if len(ids) > self.limits.score:
            raise APIError(400, f"the text has {len(ids):,} characters; send {self.limits.score:,} at most", field)
        return ids

    async def run_scoring(self, request: Request, *arguments: Any) -> Any:
        """Runs a method of the scorer while the client is connected. Raises APIError."""
        return await run_while_connected(request, self.scorer.run(time.monotonic() + self.limits.seconds, *arguments))

    async def close(self) -> None:
        """Ends all work."""
        await asyncio.to_thread(self.scheduler.close)
        self.scorer.close()
        self.parse_executor.shutdown(wait=False)


def open_service(
    run: Run, limits: Limits, token: str | None = None, precision: str = "float32", device: str = "auto"
) -> Service:
    """Loads a run. Raises UserError if it cannot be served."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    network = run.load_network().to(choose_device(device))
    runners = open_runners(network, limits.streams, dtype)
    scheduler = Scheduler(
        runners, limits, lambda runner: DecodingConfigs(run, network, runner, dtype, lambda: scheduler.num_active)
    )
    for runner in runners:
        if isinstance(runner, PackedRunner):
            runner.set_thread_policy(
                lambda products, runner=runner: products >= _MIN_SHARED_PRODUCTS and scheduler.is_only_active(runner)
            )
    tokenizer = Tokenizer(run.alphabet, run.recipe.text.unknown)
    scorer = Scorer(run, network, tokenizer, limits)
    name = run.path.resolve().name
    drafters = scheduler.workers[0].decoding_configs.available_drafters()
    completions = Completions(name, scheduler, scorer, tokenizer, limits, drafters)
    return Service(name, run, scheduler, scorer, tokenizer, completions, limits, token, time.monotonic())


def open_runners(network: Transformer, streams: int, dtype: torch.dtype) -> list[ModelRunner]:
    """One runner for all streams, or one for each core if the weights fit the cache that the cores share. A larger
    network would be read from memory once for each core."""
    first = open_runner(network, 1, None, dtype)
    if isinstance(first, PackedRunner) and first.fits_cache:
        cores = max(1, min(streams // MIN_STREAMS_PER_WORKER, torch.get_num_threads()))
        shares = [streams * (n + 1) // cores - streams * n // cores for n in range(cores)]
    else:
        shares = [streams]
    return [open_runner(network, share, None, dtype, first) for share in shares]
