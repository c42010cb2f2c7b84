"""Host names, origins and proxies."""

import socket

import httpx2
import pytest

from charladder.cli import serve
from charladder.cli.main import main
from charladder.cli.serve import is_loopback, listen
from charladder.serving.openapi import parse_root_path
from serving.served import serving

ELSEWHERE = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}


@pytest.mark.slow
def test_additional_hosts_and_origins_are_accepted(runs):
    access = {"hosts": ("localhost", "127.0.0.1", "ladder.example"), "origins": ("https://app.example",)}
    with serving(runs / "run", access=access) as served:

        def status(**headers: str) -> int:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return httpx2.post(f"{served.url}/score", json={"text": "a"}, headers=names).status_code

        assert status(Host="ladder.example") == status(Host="LADDER.example:8443") == 200
        assert status(Host="ladder.example", Origin="https://ladder.example") == 200
        assert status(Host="ladder.example", Origin="https://other.example") == 403
        assert status(Host="other.example") == status(Host="ladder.example.org") == 403
        assert status(Origin="https://app.example", Sec_Fetch_Site="cross-site") == 200
        assert status(Origin="https://app.example:444") == status(Origin="http://app.example") == 403
        assert status(Sec_Fetch_Site="cross-site") == 403


def test_allowed_origin_gets_cors_headers(runs):
    with serving(runs / "run", token="sesame", access={"origins": ("https://app.example",)}) as served:
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        response = httpx2.options(f"{served.url}/v1/completions", headers=ELSEWHERE | preflight)
        assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in response.headers["access-control-allow-headers"]
        token = {"Authorization": "Bearer sesame"}
        response = httpx2.get(f"{served.url}/v1/models", headers=ELSEWHERE | token)
        assert response.status_code == 200 and response.headers["access-control-allow-origin"] == "https://app.example"
        assert httpx2.get(f"{served.url}/v1/models", headers=ELSEWHERE).status_code == 401
        other = {"Origin": "https://other.example"}
        response = httpx2.options(f"{served.url}/v1/completions", headers=other | preflight)
        assert response.status_code == 400 and "access-control-allow-origin" not in response.headers
        assert httpx2.get(f"{served.url}/v1/models", headers=other | token).status_code == 403


@pytest.mark.parametrize("path", ["/health", "/ladder/health"], ids=["removed by the proxy", "not removed"])
def test_root_path_of_a_proxy(runs, path):
    with serving(runs / "run", token="sesame", access={"root_path": "/ladder"}) as served:
        assert httpx2.get(served.url + path).json()["status"] == "ok"
        assert httpx2.get(served.url + path.replace("health", "page/main.js")).status_code == 200
        token = {"Authorization": "Bearer sesame"}
        document = httpx2.get(served.url + path.replace("health", "openapi.json"), headers=token).json()
        assert document["servers"] == [{"url": "/ladder"}]
        assert httpx2.get(served.url + path.replace("health", "about")).status_code == 401


def test_forwarded_prefix_is_in_the_openapi_document(served):
    def servers(prefix: str | None) -> list[dict] | None:
        headers = {} if prefix is None else {"X-Forwarded-Prefix": prefix}
        return httpx2.get(f"{served.url}/openapi.json", headers=headers).json().get("servers")

    assert servers("/a/b/") == [{"url": "/a/b"}] and servers("/c") == [{"url": "/c"}]
    assert servers(None) is servers("//evil.example") is servers("https://evil.example") is servers("/a?b") is None


def test_parse_root_path():
    assert parse_root_path("/ladder/") == parse_root_path("/ladder") == "/ladder"
    assert parse_root_path("") == parse_root_path("/") == parse_root_path("ladder") == parse_root_path("/a//b") == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.1", "localhost", "LOCALHOST", "ladder.test"])
def test_loopback_is_decided_by_the_bound_address(monkeypatch, host):
    resolve = socket.getaddrinfo
    addresses = {"ladder.test": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *more, **most: resolve(addresses.get(name, name), *more, **most)
    )
    with listen(host, 0) as listening:
        assert is_loopback(listening.getsockname()[0])


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("::1", True), ("::ffff:127.0.0.1", True), ("127.8.8.8", True), ("::", False), ("192.0.2.1", False)],
)
def test_is_loopback(address, loopback):
    assert is_loopback(address) == loopback


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow-host", "https://ladder.example"], "give a name or an address alone"),
        (["--allow-host", "ladder.example:443"], "give a name or an address alone"),
        (["--allow-host", ""], "give a name or an address alone"),
        (["--allow-origin", "ladder.example"], "give a scheme and a host alone"),
        (["--allow-origin", "https://ladder.example/"], "give a scheme and a host alone"),
        (["--allow-origin", "*"], "give a scheme and a host alone"),
        (["--root-path", "ladder"], "give a path such as /ladder"),
    ],
)
def test_user_errors(runs, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(serve, "listen", None)  # nothing is opened
    assert main(["serve", str(runs / "run"), "--port", "0", *arguments]) == 2
    assert message in capsys.readouterr().err
