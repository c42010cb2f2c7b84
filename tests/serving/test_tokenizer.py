"""The remote tokenizer, the metrics and the access log."""

import re
import subprocess
import sys

import httpx2
import pytest

from serving.served import serving
from serving.test_scoring import TEXT


def post(served, path, **body):
    return httpx2.post(f"{served.url}/{path}", json=body, timeout=30)


def test_tokenize_and_detokenize(served, lettered):
    result = post(served, "tokenize", prompt=TEXT, add_special_tokens=False).json()
    assert result == {"count": len(TEXT.encode()), "max_model_len": 16, "tokens": list(TEXT.encode())}
    assert post(served, "detokenize", tokens=result["tokens"]).json() == {"prompt": TEXT}
    strings = post(served, "tokenize", prompt="aä", return_token_strs=True).json()["token_strs"]
    assert strings == ["a", "bytes:\\xc3", "bytes:\\xa4"]
    letters = post(lettered, "tokenize", prompt="A läd").json()["tokens"]
    assert len(letters) == 5 and post(lettered, "detokenize", tokens=letters).json() == {"prompt": "A läd"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": 3}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": []}, "messages"),
        ("detokenize", {"tokens": [300]}, None),
        ("detokenize", {"tokens": ["a"]}, "tokens"),
    ],
)
def test_invalid_requests_give_400(served, path, body, param):
    answer = post(served, path, **body)
    assert answer.status_code == 400
    assert param is None or answer.json()["error"]["param"] == param


def test_tokenizer_info(served):
    info = httpx2.get(f"{served.url}/tokenizer_info").json()
    assert info["eos_token"] is None and info["vocab_size"] == 256  # the harness needs the key


def test_metrics_count_requests_and_characters(runs):
    with serving(runs / "run") as served:
        for _ in range(2):
            assert post(served, "v1/completions", prompt="A l", max_tokens=5).status_code == 200
        assert post(served, "score").status_code == 400
        assert httpx2.get(f"{served.url}/nothing/{'x' * 50}").status_code == 404
        answer = httpx2.get(f"{served.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'charladder_requests_total{path="/v1/completions",status="200"} 2',
        'charladder_requests_total{path="/score",status="400"} 1',
        'charladder_requests_total{path="other",status="404"} 1',
        'charladder_request_seconds_count{path="/v1/completions"} 2',
        'charladder_request_seconds_bucket{path="/v1/completions",le="+Inf"} 2',
        "charladder_characters_total 10",
        "charladder_streams_waiting 0",
    ):
        assert line in lines
    pattern = r"(# (HELP|TYPE) )?charladder_[a-z_]+(\{[a-z]+=\"[^\"]*\"(,[a-z]+=\"[^\"]*\")*\})? .+"
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_access_log(runs, capfd):
    with serving(runs / "run", access={"access_log": True}) as served:
        post(served, "score", text="secret")
        httpx2.get(f"{served.url}/%0aforged")
    log = capfd.readouterr().err
    assert re.search(r"^\S+ 127\.0\.0\.1 POST /score 200 \d+ \d\.\d{3}$", log, re.M)
    assert re.search(r"^\S+ 127\.0\.0\.1 GET /%0Aforged 404 ", log, re.M)
    assert "secret" not in log


def test_serve_help_has_access_log():
    process = subprocess.run([sys.executable, "-m", "charladder", "serve", "--help"], capture_output=True, text=True)
    assert "--access-log" in process.stdout
