"""Counters of requests for Prometheus, and the access log."""

import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
_BUCKET_SECONDS = 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0  # upper bounds of the histogram
_PATH_GROUPS = "/page/", "/v1/models/"  # prefixes whose paths are counted together


@dataclass
class RequestMetrics:
    """Counters of finished requests. named_paths: paths that are counted by name; others are counted as `other`."""

    named_paths: frozenset[str] = frozenset()
    by_status: Counter[tuple[str, int]] = field(default_factory=Counter)
    buckets: dict[str, list[int]] = field(default_factory=dict)  # the last bucket has no upper bound
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, path: str, status: int, seconds: float) -> None:
        """Counts a request. seconds: from its head to the end of the response."""
        group = next((group for group in _PATH_GROUPS if path.startswith(group)), None)
        name = group or (path if path in self.named_paths else "other")
        self.by_status[name, status] += 1
        self.buckets.setdefault(name, [0] * (len(_BUCKET_SECONDS) + 1))[bisect_left(_BUCKET_SECONDS, seconds)] += 1
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def prometheus_lines(self) -> Iterable[str]:
        """The text format of Prometheus, version 0.0.4."""
        yield "# HELP charladder_requests_total Finished requests."
        yield "# TYPE charladder_requests_total counter"
        for (name, status), count in sorted(self.by_status.items()):
            yield f'charladder_requests_total{{path="{name}",status="{status}"}} {count}'
        yield "# HELP charladder_request_seconds Seconds from the head of a request to the end of its answer."
        yield "# TYPE charladder_request_seconds histogram"
        for name, counts in sorted(self.buckets.items()):
            for index, bound in enumerate([*map(str, _BUCKET_SECONDS), "+Inf"]):
                yield f'charladder_request_seconds_bucket{{path="{name}",le="{bound}"}} {sum(counts[: index + 1])}'
            yield f'charladder_request_seconds_sum{{path="{name}"}} {self.seconds[name]:.6f}'
            yield f'charladder_request_seconds_count{{path="{name}"}} {sum(counts)}'


def metric_lines(name: str, kind: str, description: str, value: float) -> list[str]:
    """The lines of one number without labels. kind: `gauge` or `counter`."""
    return [f"# HELP {name} {description}", f"# TYPE {name} {kind}", f"{name} {value}"]


@dataclass
class MetricsMiddleware:
    """ASGI middleware that counts requests and, with `log`, writes a line for each to standard error."""

    app: Any
    metrics: RequestMetrics
    log: bool = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at, status, size = time.monotonic(), 499, 0  # 499: the client disconnected before the response

        async def send_and_count(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_count)
        finally:
            seconds = time.monotonic() - started_at
            self.metrics.add(scope["path"], status, seconds)
            if self.log:
                client = (scope.get("client") or ("-",))[0]
                line = f"{scope['method']} {quote(scope['path'])} {status} {size} {seconds:.3f}"
                print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {client} {line}", file=sys.stderr, flush=True)
