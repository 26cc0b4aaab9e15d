"""A Hub on the loopback, for the real client to talk to: reads and writes over plain HTTP, and failures on purpose.

Point the client at it by `Hub.environment`, in a new process, since huggingface_hub reads it when it is imported; or
give `Hub.address` as its endpoint.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.plugin.hub_store import LFS, RefusedError, Repository, files_of, pointer, regular

WRITER = "hf_may_write"
READER = "hf_may_read"


@dataclass
class Failure:
    """What goes wrong with requests of one kind.

    how: a status to answer with, nothing being done; "drop" the connection, nothing being done; "lose" the answer to
    what was done; or "half": drop the connection after the first bytes of what is sent.
    """

    kind: str
    how: int | str
    times: int
    headers: Mapping[str, str]


@dataclass
class Hub:
    """A running server. `requests` holds (method, path, status) of everything it was asked; status 0 is no answer."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, name: str, folder: Path) -> str:
        """Publish the files of a folder as a new commit on main of ``owner/name``."""
        return self.repositories.setdefault(name, Repository()).put(files_of(folder))

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that make the client talk to this server alone, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def fail(self, kind: str, how: int | str, *, times: int = 1, **headers: str) -> None:
        """Let the next requests fail whose "METHOD /path" contains the regular expression `kind`."""
        self.failures.append(Failure(kind, how, times, {key.replace("_", "-"): text for key, text in headers.items()}))

    def state(self) -> dict[str, object]:
        """All that a reader can see, to compare before with after."""
        return {name: repository.state() for name, repository in self.repositories.items()}

    def asked(self, kind: str) -> list[int]:
        """The status of every answer to requests of a kind."""
        return [status for method, path, status in self.requests if re.search(kind, f"{method} {path}")]

    def find(self, name: str, token: str) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not token):
            raise RefusedError(404 if token else 401, f"Repository {name!r} not found", "RepoNotFound")
        return repository


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a Hub in a thread until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_ROUTES: list[tuple[str, re.Pattern[str], str]] = []
_MODEL = r"/api/models/(?P<name>[^/]+/[^/]+)"


def _route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        _ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return note


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"  # the client keeps connections alive
    disable_nagle_algorithm = True  # or each answer waits 40 ms for its body

    def do_GET(self) -> None:
        """Answer any request; HEAD as GET without the body."""
        failure = self._next_failure()
        if failure and failure.how in ("drop", "half"):
            if failure.how == "half" and self.command in ("POST", "PUT"):
                self.rfile.read1(100)
            return self._hang_up()
        self.body = self._read()
        try:
            if failure and failure.how != "lose":
                raise RefusedError(int(failure.how), "told to fail")
            with self.hub.lock:
                answer = self._answer()
        except RefusedError as error:
            headers = {
                "X-Error-Code": error.code,
                "X-Error-Message": error.message,
                **(failure.headers if failure else {}),
            }
            return self._send(error.status, json.dumps({"error": error.message}).encode(), headers)
        if failure:
            return self._hang_up()
        return self._send(*answer) if isinstance(answer, tuple) else self._send(200, json.dumps(answer).encode())

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _next_failure(self) -> Failure | None:
        for failure in self.hub.failures:
            if failure.times and re.search(failure.kind, f"{self.command} {self.path}"):
                failure.times -= 1
                return failure
        return None

    def _hang_up(self) -> None:
        self.hub.requests.append((self.command, self.path, 0))
        self.close_connection = True

    def _answer(self) -> Any:
        parts = urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.token not in ("", WRITER, READER):
            raise RefusedError(401, "Invalid credentials in Authorization header")
        for verb, pattern, function in _ROUTES:
            if verb == method and (match := pattern.fullmatch(parts.path)):
                return getattr(self, function)(**{
                    key: unquote(value) for key, value in match.groupdict().items() if value
                })
        raise RefusedError(404, "no such route")

    def _json(self) -> Any:
        return json.loads(self.body)

    def _writable(self, name: str) -> Repository:
        self._must_write()
        return self.hub.find(name, self.token)

    def _must_write(self) -> None:
        if self.token != WRITER:
            raise RefusedError(403 if self.token else 401, "a token with write access is needed")

    @_route("GET", r"/api/models")
    def _models(self) -> Any:
        base = self.query["filter"].removeprefix("base_model:")
        return [{"id": name} for name, repository in self.hub.repositories.items() if base in repository.base_models()]

    @_route("GET", _MODEL + r"(?:/revision/(?P<revision>[^/]+))?")
    def _about(self, name: str, revision: str = "main") -> Any:
        repository = self.hub.find(name, self.token)
        sha = repository.resolve(revision)
        siblings = [{"rfilename": path} for path in repository.commits[sha].tree]
        return {"id": name, "sha": sha, "siblings": siblings, "private": repository.private, "tags": []}

    @_route("GET", _MODEL + r"/tree/(?P<revision>[^/]+)")
    def _tree(self, name: str, revision: str) -> Any:
        repository = self.hub.find(name, self.token)
        return [file.about(path) for path, file in repository.commits[repository.resolve(revision)].tree.items()]

    @_route("GET", _MODEL + r"/refs")
    def _refs(self, name: str) -> Any:
        repository = self.hub.find(name, self.token)
        kinds = {"branches": "refs/heads/", "tags": "refs/tags/", "converts": "refs/convert/"}
        if "include_prs" in self.query:
            kinds["pullRequests"] = "refs/pr/"
        return {kind: repository.named(prefix) for kind, prefix in kinds.items()}

    @_route("GET", _MODEL + r"/commits/(?P<revision>[^/]+)")
    def _commits(self, name: str, revision: str) -> Any:
        repository = self.hub.find(name, self.token)
        date, message = "2026-01-01T00:00:00.000Z", ""
        return [
            {"id": sha, "authors": [], "date": date, "title": repository.commits[sha].title, "message": message}
            for sha in repository.history(repository.resolve(revision))
        ]

    @_route("GET", _MODEL + r"/lfs-files")
    def _lfs_files(self, name: str) -> Any:
        repository = self._writable(name)
        about = {"pushedAt": "2026-01-01T00:00:00.000Z", "ref": None}
        return [
            {"fileOid": sha256, "oid": sha256, "filename": path, "size": len(repository.objects[sha256]), **about}
            for sha256, path in repository.listed.items()
        ]

    @_route("GET", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def _resolve(self, name: str, revision: str, path: str) -> Any:
        repository = self.hub.find(name, self.token)
        sha = repository.resolve(revision)
        file = repository.commits[sha].tree.get(path)
        if file is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": sha}
            return 404, b"{}", error
        data = repository.read(file)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.sha256 or file.oid}"', "Accept-Ranges": "bytes"}
        if file.sha256:
            headers.update({"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)})
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return 200, data, headers
        start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
        return 206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}

    @_route("POST", r"/api/repos/create")
    def _create(self) -> Any:
        self._must_write()
        wanted = self._json()
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            return 409, json.dumps({
                "error": "You already created this model repo",
                "url": f"{self.hub.address}/{name}",
            })
        repository = self.hub.repositories[name] = Repository(private=wanted.get("visibility") == "private")
        repository.put({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": f"{self.hub.address}/{name}"}

    @_route("DELETE", r"/api/repos/delete")
    def _delete(self) -> Any:
        wanted = self._json()
        name = f"{wanted['organization']}/{wanted['name']}"
        self._writable(name)
        del self.hub.repositories[name]
        return {}

    @_route("POST", r"/api/validate-yaml")
    def _validate(self) -> Any:
        try:
            yaml.safe_load(self._json()["content"].split("---")[1])
        except (IndexError, yaml.YAMLError) as error:
            return 400, json.dumps({"errors": [{"message": str(error)}], "warnings": []})
        return {"errors": [], "warnings": []}

    @_route("POST", _MODEL + r"/preupload/(?P<revision>[^/]+)")
    def _preupload(self, name: str, revision: str) -> Any:
        repository = self._writable(name)
        tree = repository.commits[repository.resolve(revision)].tree
        ignored = repository.read(tree[".gitignore"]).decode().split() if ".gitignore" in tree else []
        modes = []
        for file in self._json()["files"]:
            path, old = file["path"], tree.get(file["path"])
            mode = {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular"}
            modes.append({**mode, "shouldIgnore": path in ignored, **({"oid": old.sha256 or old.oid} if old else {})})
        return {"files": modes}

    @_route("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
    def _batch(self, name: str) -> Any:
        repository = self._writable(name)
        place = f"{self.hub.address}/lfs/{name}"
        objects = []
        for wanted in self._json()["objects"]:
            upload = {"upload": {"href": f"{place}/{wanted['oid']}"}, "verify": {"href": f"{place}/verify"}}
            objects.append({**wanted, **({} if wanted["oid"] in repository.objects else {"actions": upload})})
        return {"transfer": "basic", "objects": objects}

    @_route("PUT", r"/lfs/(?P<name>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
    def _upload(self, name: str, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, "the content does not have this digest")
        self.hub.repositories[name].objects[oid] = self.body
        return {}

    @_route("POST", r"/lfs/(?P<name>[^/]+/[^/]+)/verify")
    def _verify(self, name: str) -> Any:
        wanted = self._json()
        if len(self._writable(name).objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise RefusedError(422, "the object is not there in full")
        return {}

    @_route("POST", _MODEL + r"/commit/(?P<revision>[^/]+)")
    def _commit(self, name: str, revision: str) -> Any:
        repository = self._writable(name)
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        head = repository.resolve(revision)
        if header["value"].get("parentCommit", head) != head:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.commits[head].tree)
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del tree[value["path"]]
            elif change["key"] == "lfsFile" and value["oid"] in repository.objects:
                tree[value["path"]] = pointer(value["oid"], value["size"])
            elif change["key"] == "file":
                tree[value["path"]] = regular(base64.b64decode(value["content"]))
            else:
                raise RefusedError(400, f"cannot do {change['key']} of {value['path']}")
        number = 1 + len(repository.named("refs/pr/"))
        ref = f"refs/pr/{number}" if "create_pr" in self.query else f"refs/heads/{revision}"
        sha = repository.commit(ref, tree, header["value"]["summary"], head)
        page = (
            {"pullRequestUrl": f"{self.hub.address}/{name}/discussions/{number}"} if "create_pr" in self.query else {}
        )
        return {"commitOid": sha, "commitUrl": f"{self.hub.address}/{name}/commit/{sha}", **page}

    @_route("POST", _MODEL + r"/branch/(?P<branch>[^/]+)")
    def _make_branch(self, name: str, branch: str) -> Any:
        repository = self._writable(name)
        if f"refs/heads/{branch}" in repository.refs:
            raise RefusedError(409, f"Reference already exists: {branch}")
        repository.refs[f"refs/heads/{branch}"] = repository.resolve(self._json().get("startingPoint", "main"))
        return {}

    @_route("DELETE", _MODEL + r"/(?P<kind>branch|tag)/(?P<ref>[^/]+)")
    def _delete_ref(self, name: str, kind: str, ref: str) -> Any:
        if (kind, ref) == ("branch", "main"):
            raise RefusedError(403, "main cannot be deleted")
        full = f"refs/{'heads' if kind == 'branch' else 'tags'}/{ref}"
        if self._writable(name).refs.pop(full, None) is None:
            raise RefusedError(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        return {}

    @_route("POST", _MODEL + r"/lfs-files/batch")
    def _delete_lfs(self, name: str) -> Any:
        self._writable(name).delete_objects(set(self._json()["deletions"]["sha"]))
        return {}

    @_route("POST", _MODEL + r"/super-squash/(?P<branch>[^/]+)")
    def _squash(self, name: str, branch: str) -> Any:
        self._writable(name).squash(branch, self._json()["message"])
        return {}

    def _send(self, status: int, body: bytes | str, headers: Mapping[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.hub.requests.append((self.command, self.path, status))  # before the client can look
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":  # an answer to HEAD has no body, or the next request goes out of step
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; `Hub.requests` has it all."""
