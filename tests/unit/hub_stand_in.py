"""A model hub on loopback that speaks what huggingface_hub asks, and can misbehave on request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY, REVISION = "someone/tiny", "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class HubStandIn:
    """Serves `files` of one repository at one revision, over real HTTP.

    As on the hub, a file of `large` names lies elsewhere: its HEAD is answered by a redirect that
    states its SHA-256 and size, and other files are named by their git hash.

    served: bytes that are sent in place of the stated ones. cut: after how many bytes of a file
    the connection breaks. stalls: after how many bytes a file stops coming, until `resume` is set;
    `stalled` tells that it happened. refusal: status and error code for every request. xet: whether
    large files are said to come over Xet, a service that is broken here. requests: (method, file)
    of each request, in order; the list of the files is "".
    """

    def __init__(self, files: dict[str, bytes], large: set[str]) -> None:
        self.files, self.large = files, large
        self.served: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.stalls: dict[str, int] = {}
        self.refusal: tuple[int, str] | None = None
        self.xet = False
        self.requests: list[tuple[str, str]] = []
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

    def downloads(self, name: str) -> int:
        """How often a file was asked for."""
        return self.requests.count(("GET", name))


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
        tree = f"/api/models/{REPOSITORY}/tree/{REVISION}"
        repository, elsewhere = f"/{REPOSITORY}/resolve/{REVISION}", "/elsewhere"
        place, _, name = self.path.rpartition("/")
        if self.path == "/xet-token":
            self._send_xet_token()
            return
        listing = self.path.partition("?")[0] == tree
        hub.requests.append((self.command, "" if listing else name))
        if hub.refusal:
            self._reply(hub.refusal[0], {"X-Error-Code": hub.refusal[1]})
        elif listing:
            self._send("", json.dumps([*map(self._describe, hub.files)]).encode())
        elif place not in (repository, elsewhere) or name not in hub.files:
            self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        elif name in hub.large and place == repository:
            self._redirect(name, hub.files[name])
        else:
            self._send(name, hub.files[name])

    def _describe(self, name: str) -> dict[str, Any]:
        """A file in the list of the repository's."""
        content, hub = self.stand_in.files[name], self.stand_in
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
        if name in hub.large:
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
            entry |= {"xetHash": sha256(content)} if hub.xet else {}
        return entry | {"oid": git_hash(content)}

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
        headers = {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": REVISION}
        self._reply(200, {"Content-Length": str(len(body)), **headers})
        if self.command == "GET":
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send_body(name, body)

    def _send_body(self, name: str, body: bytes) -> None:
        hub = self.stand_in
        end = hub.cut.get(name, len(body))
        stall = hub.stalls.pop(name, end)
        self.wfile.write(body[: min(stall, end)])
        if stall < end:
            self.wfile.flush()
            hub.stalled.set()
            hub.resume.wait(60)
            self.wfile.write(body[stall:end])
