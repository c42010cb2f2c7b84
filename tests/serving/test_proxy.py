"""The proxy of docs/service.md, run by nginx with its own certificate."""

import contextlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from serving.served import Served, serving, until

PAGE = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
MISSING = [program for program in ("nginx", "openssl") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} missing: apt-get install nginx-light openssl"),
]
ORIGIN = "https://ladder.example"
CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log {folder}/log;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def proxied(folder: Path, served: Served, left_out: str = "") -> Iterator[tuple[httpx2.Client, int]]:
    """A client of the documented proxy, and the proxy's port. left_out: a line to leave out of its configuration."""
    (server,) = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
    port = free_port()
    for was, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/ladder.example.", f"{folder}/certificate."),
        ("127.0.0.1:8000", f"127.0.0.1:{served.port}"),
        *([(left_out, "")] if left_out else []),
    ):
        assert was in server
        server = server.replace(was, new)
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=ladder.example"
    files = ["-keyout", folder / "certificate.key", "-out", folder / "certificate.pem"]
    subprocess.run(["openssl", *make.split(), *files], check=True, capture_output=True)
    user = "user root;" if Path("/proc/self").stat().st_uid == 0 else ""
    (folder / "configuration").write_text(CONFIGURATION.format(folder=folder, server=server, user=user))
    with subprocess.Popen(["nginx", "-p", folder, "-e", folder / "log", "-c", folder / "configuration"]) as nginx:
        try:
            headers = {"Host": f"ladder.example:{port}", "Authorization": "Bearer sesame"}
            base = f"https://127.0.0.1:{port}/ladder/"
            with httpx2.Client(base_url=base, headers=headers, verify=False, timeout=60) as client:
                until(lambda: listening(port))
                yield client, port
        finally:
            nginx.terminate()


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def test_documented_proxy(runs, tmp_path):
    access = {"hosts": ("localhost", "127.0.0.1", "ladder.example")}
    with (
        serving(runs / "run", token="sesame", access=access, max_tokens=10_000_000) as served,
        proxied(tmp_path, served) as (client, port),
    ):
        page = client.get("").raise_for_status().text
        for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page):
            assert client.get(name).status_code == 200
        own = {"Origin": f"{ORIGIN}:{port}", "Sec-Fetch-Site": "same-origin"}
        assert client.post("score", json={"text": "abc"}, headers=own).json()["characters"] == 3
        other = {"Origin": "https://other.example", "Sec-Fetch-Site": "cross-site"}
        assert client.post("score", json={"text": "abc"}, headers=other).status_code == 403
        assert client.get("about", headers={"Authorization": ""}).status_code == 401
        assert client.get("openapi.json").json()["servers"] == [{"url": "/ladder"}]
        large = {"prompt": "a" * 90_000 + "\0" * 10_000, "max_tokens": 0, "user": "x" * 3_000_000}
        assert client.post("v1/completions", json=large).status_code == 200
        api = openai.OpenAI(
            base_url=str(client.base_url.join("v1")), api_key="sesame", http_client=client, max_retries=0
        )  # fmt: skip
        with api.completions.create(model="run", prompt="a", max_tokens=10_000_000, stream=True) as stream:
            assert next(iter(stream)).choices[0].text is not None
            assert served.service.scheduler.num_active == 1  # what was written came at once
        until(lambda: not served.service.scheduler.num_active)


def test_proxy_that_replaces_the_host_header(runs, tmp_path):
    for access, status in (({}, 403), ({"origins": (ORIGIN,)}, 200)):
        with (
            serving(runs / "run", token="sesame", access=access) as served,
            proxied(tmp_path, served, "proxy_set_header Host $http_host;") as (client, _),
        ):
            own = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
            assert client.post("score", json={"text": "abc"}, headers=own).status_code == status
            assert client.get("").status_code == 200
