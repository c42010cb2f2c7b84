"""The scheduler: a queue of requests, and the workers that decode them (one, or one for each core).

The event loop submits requests and receives outputs without blocking. Outputs that were not sent to the client yet wait
in the queue of their request, whose size the length of the text limits.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from charladder.inference.runner import ModelRunner
from charladder.serving.api_errors import SHUTTING_DOWN
from charladder.serving.batch_worker import RequestOutput, Worker
from charladder.serving.decoding_configs import DecodingConfigs
from charladder.serving.generation_request import GenerationError, GenerationRequest, QueueFull
from charladder.serving.limits import Limits

_MAX_JOINING_PER_STEP = 8  # texts: reading their prompts delays the texts that are being decoded


class Scheduler:
    """A worker for each of `runners`, which must not be used elsewhere. make_configs: makes the decoding configs of a
    runner. `start` needs a running event loop."""

    def __init__(
        self, runners: Sequence[ModelRunner], limits: Limits, make_configs: Callable[[ModelRunner], DecodingConfigs]
    ) -> None:
        self.limits = limits
        self.waiting: deque[GenerationRequest] = deque()
        self.changed = threading.Condition()
        self.closed = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.workers = [
            Worker(runner, make_configs(runner), self.wait_for_requests, self.deliver, lambda: self.num_active)
            for runner in runners
        ]

    @property
    def num_active(self) -> int:
        """How many texts are being decoded."""
        return sum(len(worker.active) for worker in self.workers)

    @property
    def generated_characters(self) -> int:
        """Characters of all texts so far."""
        return sum(worker.generated_characters for worker in self.workers)

    def is_only_active(self, runner: ModelRunner) -> bool:
        """Whether no worker but that of `runner` has texts."""
        return not any(worker.active for worker in self.workers if worker.loop.runner is not runner)

    def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        for worker in self.workers:
            worker.thread.start()

    def close(self) -> None:
        """Ends all texts, with an error."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for worker in self.workers:
            if worker.thread.is_alive():
                worker.thread.join()
        with self.changed:
            failing = list(self.waiting)
            self.waiting.clear()
        self.deliver([(request, GenerationError(SHUTTING_DOWN, 503)) for request in failing])

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Queues all requests, or none. Raises QueueFull."""
        with self.changed:
            if self.closed:
                raise QueueFull
            free = sum(len(worker.free_slots) for worker in self.workers)
            if len(requests) > self.limits.waiting + free - len(self.waiting):
                raise QueueFull
            self.waiting += requests
            self.changed.notify_all()

    def cancel(self, requests: Sequence[GenerationRequest]) -> None:
        """Drops requests. Their slots are free at the next step."""
        with self.changed:
            for request in requests:
                request.is_cancelled = True
            self.waiting = deque(request for request in self.waiting if not request.is_cancelled)
            self.changed.notify_all()

    def wait_for_requests(self, worker: Worker) -> list[GenerationRequest] | None:
        """Blocks until a worker has something to do. Returns the requests that join it; None when closed.

        Workers get equal shares, those with the fewest texts first. A single text always goes to the first worker,
        whose drafter has learned from the texts before."""
        with self.changed:
            while not self.closed:
                worker.remove([request for request in worker.active if request.is_cancelled])
                self._fail_expired()
                joining = [self.waiting.popleft() for _ in range(self._num_joining(worker))]
                if joining or worker.active:
                    if self.waiting:
                        self.changed.notify_all()  # another worker may be next
                    return joining
                self.changed.wait()
            return None

    def _fail_expired(self) -> None:
        """Fails requests that have waited past their deadline. Called between two steps, because texts only wait while
        others are decoded."""
        now = time.monotonic()
        late = [request for request in self.waiting if now > request.deadline]
        if late:
            self.waiting = deque(request for request in self.waiting if now <= request.deadline)
            sentence = f"no stream became free within {self.limits.seconds:g} seconds; try again later"
            self.deliver([(request, GenerationError(sentence, 503)) for request in late])

    def _num_joining(self, worker: Worker) -> int:
        """How many waiting requests join a worker now."""
        if not self.waiting:
            return 0
        with_slots = [other for other in self.workers if other.free_slots]
        first = sorted(with_slots, key=lambda other: len(other.active))
        if worker not in first[: len(self.waiting)]:
            return 0
        share = -(-(len(self.waiting) + self.num_active) // len(self.workers))
        return min(len(self.waiting), len(worker.free_slots), max(0, share - len(worker.active)), _MAX_JOINING_PER_STEP)

    def deliver(self, outputs: Sequence[RequestOutput]) -> None:
        """Passes outputs to the event loop, in one call."""
        if not outputs or self.loop is None:
            return

        def receive() -> None:
            for request, output in outputs:
                request.put_output(output)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(receive)
