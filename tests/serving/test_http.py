"""HTTP details: HEAD, content codings, named fields, the OpenAPI document."""

import gzip
import json

import httpx2
import pytest

from charladder.serving.json_encoding import MAX_NUMBERS_PER_CALL, encode_json
from serving.served import serving


@pytest.mark.parametrize("path", ["/", "/health", "/about", "/v1/models", "/openapi.json", "/page/main.js"])
def test_head_is_get_without_a_body(served, path):
    got, head = httpx2.get(served.url + path), httpx2.head(served.url + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/health":  # its numbers differ between calls
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_a_post_path_gives_405(served):
    assert httpx2.head(f"{served.url}/score").status_code == 405


@pytest.mark.parametrize("path", ["/health/", "/v1/models/", "/v1/completions/"])
def test_trailing_slash_is_not_redirected(served, path):
    """A redirect would lose the scheme and the prefix of a proxy."""
    body = {} if "completions" in path else None
    answer = httpx2.request("POST" if body == {} else "GET", served.url + path, json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"there is nothing at {path!r} here"


def test_compressed_body_gives_415(served):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = httpx2.post(f"{served.url}/score", content=gzip.compress(b'{"text": "a"}'), headers=headers)
    assert answer.status_code == 415
    assert "send it without `Content-Encoding`" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("v1/completions", {"prompt": "a", "temperature": "0.5"}, "temperature"),
        ("v1/completions", {"prompt": "a", "top_p": "1"}, "top_p"),
        ("score", {"text": "abc", "begin": 4}, "begin"),
        ("score", {"text": "abc", "begin": 2, "end": 1}, "end"),
        ("score", {"text": "abc", "end": 4}, "end"),
        ("layers", {"text": "abc", "place": 4}, "place"),
    ],
)
def test_error_names_the_wrong_field(served, path, body, param):
    answer = httpx2.post(f"{served.url}/{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_openapi_document_describes_the_token(runs, served):
    assert "securitySchemes" not in httpx2.get(f"{served.url}/openapi.json").json()["components"]
    with serving(runs / "run", token="sesame") as guarded:
        headers = {"Authorization": "Bearer sesame"}
        document = httpx2.get(f"{guarded.url}/openapi.json", headers=headers).json()
        assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
        assert document["security"] == [{"token": []}]
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                open_to_all = operation.get("security") == []
                if method == "get" and "{" not in path:
                    assert httpx2.get(guarded.url + path).status_code == (200 if open_to_all else 401)


@pytest.mark.parametrize("size", [0, 1, MAX_NUMBERS_PER_CALL, MAX_NUMBERS_PER_CALL + 1, 3 * MAX_NUMBERS_PER_CALL])
def test_encoding_in_parts_equals_json(size):
    row = [None if n % 7 == 0 else n / 3 for n in range(size)]
    value = {"bits": row, "layers": [{"term": 'a"ü', "bits": row}, {}], "none": [], "empty": {}, "n": 1.5}
    assert json.loads(encode_json(value)) == value


def test_internal_errors_do_not_reveal_file_names(runs, capfd):
    with serving(runs / "run") as served:

        def missing(*arguments):
            raise FileNotFoundError(2, "No such file or directory", "/srv/secret/heads.safetensors")

        for batch in served.service.scheduler.workers:
            batch.decoding_configs.get = missing
        answer = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "/srv/secret/heads.safetensors" in capfd.readouterr().err
