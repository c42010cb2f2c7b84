"""A web server of the tests that can be told to misbehave."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `body` at every path. `requests` are the headers of what was asked so far, `moved` where it redirects to.

    ranges: whether a part can be asked for. cuts: after how many bytes each of the next answers breaks off.
    status: what it answers instead of the file.
    """

    def __init__(self, body: bytes) -> None:
        self.body, self.ranges, self.cuts, self.status = body, True, [], 200
        self.version = '"one"'
        self.moved: str | None = None
        self.length, self.slow, self.coding = True, 0.0, ""
        self.requests: list[dict[str, str]] = []
        self.address = ""


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    server = Server(body)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            server.requests.append(dict(self.headers))
            if self.path.startswith("/moved") and server.moved:
                self.send_response(302)
                self.send_header("Location", server.moved)
                self.end_headers()
                return
            if server.status != 200:
                self.send_error(server.status)
                return
            begin, asked = 0, self.headers.get("Range")
            fits = server.ranges and asked and self.headers.get("If-Range") == server.version
            if fits:
                begin = int(asked.removeprefix("bytes=").removesuffix("-"))
                if begin >= len(server.body):
                    self.send_error(416)
                    return
            self.send_response(206 if fits else 200)
            if fits:
                self.send_header("Content-Range", f"bytes {begin}-{len(server.body) - 1}/{len(server.body)}")
            rest = server.body[begin:]
            if server.length:
                self.send_header("Content-Length", str(len(rest)))
            if server.version:
                self.send_header("ETag", server.version)
            if server.coding:
                self.send_header("Content-Encoding", server.coding)
            self.end_headers()
            cut = server.cuts.pop(0) if server.cuts else len(rest)
            step = 20_000 if server.slow else max(1, cut)
            for place in range(0, cut, step):
                time.sleep(server.slow)
                self.wfile.write(rest[place : min(cut, place + step)])
            if cut < len(rest):
                self.wfile.flush()
                self.connection.close()

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.address = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
