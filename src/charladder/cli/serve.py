"""The command `charladder serve`."""

import gc
import ipaddress
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

from charladder.cli.options import Parser, add_device_option, add_weights_option
from charladder.cli.terminal import print_message
from charladder.errors import UserError
from charladder.run import open_run
from charladder.serving.limits import Limits

_MAX_TOKEN_BYTES = 4096
# How long the event loop may keep the interpreter lock from the decoding threads. Python's 0.005 s costs a quarter.
_SWITCH_SECONDS = 0.0005


def make_parser() -> Parser:
    limits = Limits()
    parser = Parser(
        "serve",
        "RUN as an HTTP service: OpenAI's /v1/completions and /v1/models, /score, /layers, and a page that shows the "
        "predictions of every layer. Clients must send the token of CHARLADDER_TOKEN or --token-file; without a token "
        "every client that reaches the port is served.",
        "charladder serve runs/ladder-1 --port 8000",
        "charladder serve runs/ladder-1 --host 0.0.0.0 --token-file token.txt --access-log",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="address to listen at")
    address.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one")
    address.add_argument("--root-path", default="", metavar="PATH", help="path at which a proxy publishes the service")
    help_text = "a further accepted host name, such as a proxy's; repeatable"
    address.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=help_text)
    help_text = "a further accepted origin of pages, such as https://ladder.example; repeatable"
    address.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help=help_text)
    address.add_argument("--token-file", metavar="FILE", help="file with the token that clients must send")
    address.add_argument("--access-log", action="store_true", help="print a line on standard error for each request")
    bounds = parser.add_argument_group("limits")
    bounds.add_argument("--streams", type=int, default=limits.streams, help="texts decoded at once")
    bounds.add_argument("--max-tokens", type=int, default=limits.max_tokens, help="most characters of a text")
    bounds.add_argument("--seconds", type=float, default=limits.seconds, help="most seconds of a request")
    model = parser.add_argument_group("network")
    help_text = "dtype of weights, keys and values"
    model.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help=help_text)
    add_weights_option(model)
    add_device_option(model)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if not 0 <= options.port < 1 << 16:
        raise UserError(f"--port is {options.port}; it must be between 0 and 65535")
    if not options.host:
        raise UserError("--host is empty; give an address, 0.0.0.0 for all of this machine's")
    limits = Limits(streams=options.streams, max_tokens=options.max_tokens, seconds=options.seconds)
    token = read_token(options.token_file)
    run = open_run(Path(options.run), options.weights)
    try:
        from charladder.serving.access_control import LOCAL_HOSTS, parse_hosts, parse_origins
        from charladder.serving.app import make_app
        from charladder.serving.connections import limit_connections
        from charladder.serving.openapi import parse_root_path
        from charladder.serving.server import Server
        from charladder.serving.service import open_service
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}; install it with: pip install 'charladder[serve]'") from None
    hosts, origins = parse_hosts(options.allow_host), parse_origins(options.allow_origin)
    root_path = parse_root_path(options.root_path)
    if options.root_path and not root_path:
        raise UserError(f"--root-path is {options.root_path!r}; give a path such as /ladder")
    limits = replace(limits, connections=limit_connections(limits.connections))
    service = open_service(run, limits, token, options.precision, options.device)
    listening = listen(options.host, options.port)
    local = is_loopback(listening.getsockname()[0])
    name = f"[{options.host}]" if ":" in options.host else options.host
    if not local and token is None:
        print_message(
            f"warning: other machines may reach {options.host}, and without a token every client is served; set "
            "CHARLADDER_TOKEN, or give --token-file"
        )
    known = (*LOCAL_HOSTS, name.lower(), *hosts) if local or hosts else None
    app = make_app(service, known, origins, root_path, options.access_log)
    print(f"serving {service.name} at http://{name}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.freeze()  # the garbage collector skips the objects that exist now
    server = Server(service, app)
    try:
        server.run([listening])
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
    if server.started and server.should_exit:
        # uvicorn raises the signal again, without effect if the parent process ignores it.
        raise KeyboardInterrupt
    return 0


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an IP address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def read_token(name: str | None) -> str | None:
    """The token of a file, or else of CHARLADDER_TOKEN; None if there is neither. Raises UserError."""
    token = os.environ.get("CHARLADDER_TOKEN") or None
    if name is not None:
        try:
            with Path(name).open("rb") as file:
                data = file.read(_MAX_TOKEN_BYTES + 1)
        except OSError as error:
            raise UserError(f"--token-file {name} cannot be read: {error.strerror}") from None
        token = data.decode("ascii", "replace").strip()
    if token is not None and not (
        token.isascii() and token.isprintable() and " " not in token and len(token) <= _MAX_TOKEN_BYTES
    ):
        raise UserError("the token must be printable ASCII without blanks and have at most 4,096 characters")
    if name is not None and not token:
        raise UserError(f"--token-file {name} is empty; write a token into it")
    return token


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError if the address cannot be used."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)  # prefers IPv4
        listening = socket.create_server(address, family=family, backlog=1024)
        # Accepted connections inherit it. Without it a small message may wait 40 ms for an acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OverflowError:
        raise UserError(f"--port is {port}; it must be between 0 and 65535") from None
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port or --host"
        ) from None
    except ValueError:
        raise UserError(f"--host is {host!r}; give a name or an address") from None
