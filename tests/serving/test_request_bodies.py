"""Invalid bodies cost at most a small multiple of a valid body of the same size."""

import json
import threading
import time
import tracemalloc

import httpx2
import pytest

from charladder.serving import service
from serving.served import Served

SIZE = 300_000  # bytes of each body
MOST = 5  # times the cost of a valid body


def sized(make) -> bytes:
    """A body of `count` items, with the count that gives it SIZE bytes."""
    each = (len(encode(make(2000))) - len(encode(make(1000)))) / 1000
    return encode(make(int(SIZE / each)))


def encode(body) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


VALID = encode({"prompt": [97] * (SIZE // 3), "max_tokens": 0})
WRONG = {
    "floats as tokens": ("v1/completions", lambda n: {"prompt": [1.5] * n}),
    "a float after many tokens": ("v1/completions", lambda n: {"prompt": [97] * n + [1.5]}),
    "negative tokens": ("v1/completions", lambda n: {"prompt": [-1] * n}),
    "lists as prompts": ("v1/completions", lambda n: {"prompt": [[]] * n}),
    "lists of floats as prompts": ("v1/completions", lambda n: {"prompt": [[1.5]] * n}),
    "objects as prompts": ("v1/completions", lambda n: {"prompt": [{}] * n}),
    "texts and then a number": ("v1/completions", lambda n: {"prompt": ["a"] * n + [1]}),
    "unknown keys": ("v1/completions", lambda n: {str(m): 1 for m in range(10_000, 10_000 + n)}),
    "unknown keys of an object": ("v1/completions", lambda n: {"stream_options": {str(m): 1 for m in range(n)}}),
    "texts as biases": ("v1/completions", lambda n: {"logit_bias": {str(m): "a" for m in range(n)}}),
    "numbers as stops": ("v1/completions", lambda n: {"stop": [1] * n}),
    "a text of brackets, and a float": ("v1/completions", lambda n: {"prompt": ["[{:\\\""] * 60 + [1.5] * n}),
    "texts as symbols": ("score", lambda n: {"ids": ["a"] * n}),
    "too many symbols": ("layers", lambda n: {"ids": [1] * n, "place": 0}),
}  # fmt: skip


def post(served: Served, path: str, body: bytes) -> httpx2.Response:
    headers = {"Content-Type": "application/json"}
    return httpx2.post(f"{served.url}/{path}", content=body, headers=headers, timeout=300)


def measure_cost(served: Served, path: str, body: bytes) -> tuple[float, int, int]:
    """Seconds of CPU, bytes at the peak, and the status."""
    times = []
    for _ in range(3):
        began = time.process_time()
        answer = post(served, path, body)
        times.append(time.process_time() - began)
    tracemalloc.start()
    try:
        post(served, path, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return min(times), peak, answer.status_code


@pytest.fixture(scope="module")
def valid(served):
    seconds, peak, status = measure_cost(served, "v1/completions", VALID)
    assert status == 200
    return seconds, peak


@pytest.mark.parametrize("name", WRONG)
def test_invalid_body_costs_no_more_than_a_valid_one(served, valid, name):
    path, make = WRONG[name]
    seconds, peak, status = measure_cost(served, path, sized(make))
    assert status == 400
    assert seconds < MOST * valid[0]
    assert peak < MOST * valid[1]


def test_large_bodies_are_parsed_in_a_thread(served, monkeypatch):
    parse, threads = service.parse_body, []

    def noted(data, model):
        threads.append(threading.current_thread().name)
        return parse(data, model)

    monkeypatch.setattr(service, "parse_body", noted)
    for body in (encode({"prompt": "a" * 20_000, "max_tokens": 0}), VALID):
        answer = post(served, "v1/completions", body)
        assert answer.status_code == 200
    assert len(threads) == 2 and all(name.startswith("parse") for name in threads)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": [1.5]}, "'prompt' does not fit: input should be a valid integer"),
        ({"prompt": 5}, "'prompt' does not fit: input should be a text, a list of tokens, or a list of either"),
        ({"prompt": ["a"] * 65}, "'prompt' does not fit: list should have at most 64 items, not 65"),
        ({"stop": [1]}, "'stop' does not fit: input should be a valid string"),
        ({"stop": ["a"] * 17}, "'stop' does not fit: list should have at most 16 items, not 17"),
        ({"stop": 5}, "'stop' does not fit: input should be a text, or a list of texts"),
        ({"stream_options": {"include_usag": True}}, "no field 'include_usag'; did you mean include_usage?"),
        ({"prompt": "a" * 2000, "logit_bias": {str(n): 1 for n in range(256)}}, "has 258 keys; send 256 at most"),
        ([], "the body is JSON, but not an object; send an object"),
    ],
)
def test_errors_name_the_field_and_the_intended_type(served, body, sentence):
    answer = httpx2.post(f"{served.url}/v1/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].endswith(sentence)


def test_brackets_in_strings_are_not_counted(served):
    text = '[{:"\\' * 5000
    answer = httpx2.post(f"{served.url}/v1/completions", json={"prompt": text, "max_tokens": 0, "echo": True})
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"] == text
