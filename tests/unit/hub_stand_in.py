"""A model hub on loopback that speaks what huggingface_hub asks, and can misbehave on request."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY, REVISION = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"
PIECE = 1 << 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class HubStandIn:
    """Serves `files` of one repository at one revision, over real HTTP.

    As on the hub, a file of `large` names lies elsewhere: its HEAD is answered by a redirect that
    states its SHA-256 and size, and other files are named by their git hash.

    served: bytes that are sent in place of the stated ones. cuts: after how many bytes of a file
    the connection breaks, one entry a request. stalls: after how many bytes a file stops coming,
    until `resume` is set; `stalled` tells that it happened. refusals: status and error code for a
    file. xet: whether large files are said to come over Xet, a service that is broken here.
    requests: (method, file, range) of each request, in order.
    """

    def __init__(self, files: dict[str, bytes], large: set[str]) -> None:
        self.files, self.large = files, large
        self.served: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.stalls: dict[str, int] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.xet = False
        self.requests: list[tuple[str, str, str | None]] = []
        self.stalled, self.resume = threading.Event(), threading.Event()

    def __enter__(self) -> HubStandIn:
        hub = self

        class Handler(_Handler):
            stand_in = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, name: str, method: str = "GET") -> list[str | None]:
        """The Range of each request for a file."""
        return [asked for how, file, asked in self.requests if (how, file) == (method, name)]


class _Handler(BaseHTTPRequestHandler):
    stand_in: HubStandIn

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        hub = self.stand_in
        places = f"/{REPOSITORY}/resolve/{REVISION}", "/elsewhere"
        place, _, name = self.path.rpartition("/")
        if self.path == "/xet-token":
            self._send_xet_token()
            return
        if place not in places:
            self._reply(404, {"X-Error-Code": "RepoNotFound"})
            return
        hub.requests.append((self.command, name, self.headers["Range"]))
        if name in hub.refusals:
            status, code = hub.refusals[name]
            self._reply(status, {"X-Error-Code": code})
        elif name not in hub.files:
            self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        elif name in hub.large and place == places[0]:
            self._redirect(name, hub.files[name])
        else:
            self._send(name, hub.files[name])

    def _reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _redirect(self, name: str, content: bytes) -> None:
        # The client follows redirects to its own host, so "elsewhere" has another name.
        headers = {
            "Location": f"http://localhost:{self.stand_in.port}/elsewhere/{name}",
            "X-Repo-Commit": REVISION,
            "X-Linked-Etag": f'"{sha256(content)}"',
            "X-Linked-Size": str(len(content)),
        }
        if self.stand_in.xet:
            headers["X-Xet-Hash"] = sha256(content)
            headers["X-Xet-Refresh-Route"] = f"{self.stand_in.endpoint}/xet-token"
        self._reply(302, headers)

    def _send_xet_token(self) -> None:
        headers = {
            "X-Xet-Cas-Url": self.stand_in.endpoint,
            "X-Xet-Access-Token": "a token",
            "X-Xet-Token-Expiration": str(2**40),
        }
        self._reply(200, headers)

    def _send(self, name: str, content: bytes) -> None:
        body = self.stand_in.served.get(name, content)
        begin = self._range_begin()
        git_hash = hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
        headers = {
            "Content-Length": str(len(body) - begin),
            "ETag": f'"{git_hash}"',
            "X-Repo-Commit": REVISION,
        }
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        self._reply(206 if begin else 200, headers)
        if self.command == "GET":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send_body(name, body[begin:])

    def _range_begin(self) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        return int(asked[1]) if asked else 0

    def _send_body(self, name: str, body: bytes) -> None:
        hub = self.stand_in
        cuts = hub.cuts.get(name)
        end = cuts.pop(0) if cuts else len(body)
        stall = hub.stalls.pop(name, end)
        self.wfile.write(body[: min(stall, end)])
        if stall < end:
            self.wfile.flush()
            hub.stalled.set()
            hub.resume.wait(60)
            self.wfile.write(body[stall:end])
