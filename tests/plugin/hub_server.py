"""A Hub on the loopback, for the real client to talk to: repositories in memory, over plain HTTP.

It answers what reading needs: model and revision information, the file tree, and HEAD and GET of files. Point the
client at it by `Hub.environment`, in a new process, since huggingface_hub reads it when it is imported.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Tree = Mapping[str, bytes]


@dataclass
class Repository:
    """Commits of one repository, the last being main; and branches or tags by name."""

    commits: dict[str, Tree] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Tree) -> str:
        content = json.dumps([len(self.commits), sorted((path, _blob(data)) for path, data in files.items())])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs["main"] = sha
        return sha


@dataclass
class Hub:
    """A running server. `requests` holds (method, path, status) of everything it was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    def put(self, name: str, folder: Path) -> str:
        """Publish the files of a folder as a new commit on main of ``owner/name``."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.repositories.setdefault(name, Repository()).commit(files)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make the client talk to this server alone, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub in a thread until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"  # the client keeps connections alive

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (api[1], api[3] or "main") if api else (file[1], file[2]) if file else ("", "")
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self._fail("RepoNotFound", f"Repository {name!r} not found")
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            return self._fail("RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[sha]
        if file:
            return self._send_file(files.get(file[3]), sha)
        if api and api[2] == "tree":
            entries = [{"type": "file", "path": key, "size": len(data), "oid": _blob(data)} for key, data in files.items()]
            return self._send(200, json.dumps(entries).encode())
        about = {"id": name, "sha": sha, "siblings": [{"rfilename": key} for key in files], "private": False, "tags": []}
        return self._send(200, json.dumps(about).encode())

    do_HEAD = do_GET

    def _send_file(self, data: bytes | None, sha: str) -> None:
        if data is None:
            return self._fail("EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_blob(data)}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self._send(200, data, headers)
        start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        return self._send(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _fail(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        reasons = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._send(404, json.dumps({"error": message}).encode(), reasons)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":  # an answer to HEAD has no body, or the next request goes out of step
            self.wfile.write(body)
        self.hub.requests.append((self.command, self.path, status))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; `Hub.requests` has it all."""
