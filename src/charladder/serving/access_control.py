"""Who may ask: under which names the service answers, which pages may use it, and the token."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from charladder.errors import UserError
from charladder.serving.api_errors import APIError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PUBLIC_PATHS = ("/", "/health")  # without the token, and all that is under /page/
_HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN_PATTERN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True)
class AccessControl:
    """hosts: names under which the service may be addressed; None: any. origins: of pages that may use it beside its
    own. token: what every request but those for the page and `/health` must bear; None: nothing."""

    hosts: tuple[str, ...] | None = LOCAL_HOSTS
    origins: tuple[str, ...] = ()
    token: str | None = None

    def check(self, method: str, path: str, headers: Mapping[bytes, str]) -> None:
        """Raises Refused for a request that may not be answered."""
        host = headers.get(b"host", "")
        if self.hosts is not None and _parse_host(host) not in self.hosts:
            raise APIError(
                403, f"this service is not called {host[:80]!r}; address it as {self.hosts[0]}, or start it with "
                "--allow-host"
            )  # fmt: skip
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
        if origin is None or origin.lower() not in self.origins:
            visit = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == "navigate" and path == "/"
            foreign = site in ("cross-site", "same-site") and not visit
            if foreign or (origin is not None and origin.partition("://")[2] != host):
                raise APIError(
                    403, "a request from another site is refused; use the page of this service itself, or start it "
                    "with --allow-origin"
                )  # fmt: skip
        if self.token is not None and path not in PUBLIC_PATHS and not path.startswith("/page/"):
            scheme, _, secret = headers.get(b"authorization", "").partition(" ")
            right = hmac.compare_digest(secret.strip().encode("latin-1"), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                raise APIError(401, "this service wants its token; send it as `Authorization: Bearer TOKEN`")


def _parse_host(host: str) -> str | None:
    """The name in a Host header, without the port; None for what is no such header."""
    found = _HOST_PATTERN.fullmatch(host.lower())
    return found[1] if found else None


def parse_hosts(names: list[str]) -> tuple[str, ...]:
    """Names for `Access.hosts` as the command line gives them. Raises UserError."""
    for name in names:
        found = _HOST_PATTERN.fullmatch(name.lower())
        if found is None or found[1] != name.lower():
            raise UserError(
                field="allow_host", value=name, rule="give a name or an address alone, such as ladder.example"
            )
    return tuple(name.lower() for name in names)


def parse_origins(origins: list[str]) -> tuple[str, ...]:
    """Origins for `Access.origins` as the command line gives them. Raises UserError."""
    for origin in origins:
        if not _ORIGIN_PATTERN.fullmatch(origin.lower()):
            raise UserError(
                field="allow_origin", value=origin,
                rule="give a scheme and a host alone, such as https://ladder.example",
            )  # fmt: skip
    return tuple(origin.lower() for origin in origins)
