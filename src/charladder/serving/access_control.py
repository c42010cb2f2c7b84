"""Access control: the host names that the service accepts, the origins whose pages may use it, and the token."""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from charladder.errors import UserError
from charladder.serving.api_errors import APIError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
PUBLIC_PATHS = ("/", "/health")  # need no token, like everything below /page/
_HOST_PATTERN = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_ORIGIN_PATTERN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


@dataclass(frozen=True)
class AccessControl:
    """hosts: names that the `Host` header may have; None: any. origins: origins beside the service's own whose pages
    may use it. token: the bearer token that requests need, except for the page and `/health`; None: no token.

    Starlette's TrustedHostMiddleware is not used: it accepts `localhost:80.evil.example`, refuses `[::1]` and answers
    in plain text. FastAPI's HTTPBearer runs after the body has been read; this check runs before.
    """

    hosts: tuple[str, ...] | None = LOCAL_HOSTS
    origins: tuple[str, ...] = ()
    token: str | None = None

    def check(self, method: str, path: str, headers: Mapping[bytes, str]) -> None:
        """Raises APIError for a request that is not allowed."""
        self._check_host(headers)
        self._check_origin(method, path, headers)
        if self.token is not None and path not in PUBLIC_PATHS and not path.startswith("/page/"):
            scheme, _, secret = headers.get(b"authorization", "").partition(" ")
            matches = hmac.compare_digest(secret.strip().encode("latin-1"), self.token.encode())
            if scheme.lower() != "bearer" or not matches:
                raise APIError(401, "this service needs its token; send it as `Authorization: Bearer TOKEN`")

    def _check_host(self, headers: Mapping[bytes, str]) -> None:
        """Refuses other host names, so that DNS rebinding cannot reach a service on loopback."""
        host = headers.get(b"host", "")
        if self.hosts is not None and _parse_host(host) not in self.hosts:
            raise APIError(
                403, f"this service is not called {host[:80]!r}; address it as {self.hosts[0]}, or start it with "
                "--allow-host"
            )  # fmt: skip

    def _check_origin(self, method: str, path: str, headers: Mapping[bytes, str]) -> None:
        """Refuses requests of other sites' pages. A link to the page is allowed."""
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() in self.origins:
            return
        is_link = method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == "navigate" and path == "/"
        is_cross_site = headers.get(b"sec-fetch-site") in ("cross-site", "same-site") and not is_link
        if is_cross_site or (origin is not None and origin.partition("://")[2] != headers.get(b"host", "")):
            raise APIError(
                403, "a request from another site is refused; use the page of this service itself, or start it "
                "with --allow-origin"
            )  # fmt: skip


def _parse_host(host: str) -> str | None:
    """The name in a Host header, without the port; None if it is malformed."""
    match = _HOST_PATTERN.fullmatch(host.lower())
    return match[1] if match else None


def parse_hosts(names: list[str]) -> tuple[str, ...]:
    """Names for `AccessControl.hosts`. Raises UserError."""
    for name in names:
        if _parse_host(name) != name.lower():
            raise UserError(
                field="allow_host", value=name, rule="give a name or an address alone, such as ladder.example"
            )
    return tuple(name.lower() for name in names)


def parse_origins(origins: list[str]) -> tuple[str, ...]:
    """Origins for `AccessControl.origins`. Raises UserError."""
    for origin in origins:
        if not _ORIGIN_PATTERN.fullmatch(origin.lower()):
            raise UserError(
                field="allow_origin", value=origin,
                rule="give a scheme and a host alone, such as https://ladder.example",
            )  # fmt: skip
    return tuple(origin.lower() for origin in origins)
