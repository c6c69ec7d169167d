"""A Hugging Face Hub on 127.0.0.1 for tests: what huggingface_hub and datasets ask of it, and its bad days."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".gguf", ".arrow")  # what a repository keeps outside git, by its sha256
TOKEN = "hf_right_token"


class FakeHub:
    """Serves folders as repositories; use it as a context manager and point ``HF_ENDPOINT`` at ``.url``.

    Args:
        models, datasets: id to folder. Every repository has one commit, on ``main``.
        gated: ids that only ``token`` may download (everyone may read their description, as on the real Hub).
        private: ids that do not exist for anyone without ``token``.
        break_after: close the connection after so many bytes of a file, on the first ``breaks`` downloads.
        rate: bytes a second that a file's download gets at most; 0 for no limit.
        hang: accept connections and never answer.
        store: a folder for new repositories; without one nobody may make any. ``user`` is whose token it is, and the
            only one who may write.

    Attributes:
        requests: ``(method, path, Range header)`` of each request.
        served: bytes of file content sent.
    """

    def __init__(
        self,
        models: Mapping[str, Path] | None = None,
        datasets: Mapping[str, Path] | None = None,
        *,
        gated: Iterable[str] = (),
        private: Iterable[str] = (),
        token: str = TOKEN,
        break_after: int = 0,
        breaks: int = 1,
        rate: int = 0,
        hang: bool = False,
        store: Path | None = None,
        user: str = "me",
    ):
        self.repositories = {
            "models": {k: Path(v) for k, v in (models or {}).items()},
            "datasets": {k: Path(v) for k, v in (datasets or {}).items()},
        }
        self.gated, self.private, self.token = set(gated), set(private), token
        self.break_after, self.breaks, self.rate, self.hang = break_after, breaks, rate, hang
        self.store, self.user = store, user
        self.uploads: dict[str, bytes] = {}  # what was put here before its commit, by its sha256
        self.failing = 0  # status that every request for a file gets, if not 0
        self.requests: list[tuple[str, str, str | None]] = []
        self.served = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables for a child process: this Hub, a home without anyone's token, no second protocol."""
        values = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return values | ({"HF_TOKEN": token} if token else {})

    def commit(self, kind: str, repo: str) -> str:
        """The one commit of a repository; it follows from the files' contents."""
        folder = self.repositories[kind][repo]
        digest = hashlib.sha1(usedforsecurity=False)
        for name in _names(folder):
            digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
        return digest.hexdigest()


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _entry(folder: Path, name: str) -> dict:
    content = (folder / name).read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests print what they need themselves."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        url = urlsplit(self.path)
        with self.hub.lock:
            self.hub.requests.append((self.command, unquote(url.path), self.headers.get("Range")))
        if self.hub.hang:
            self.hub.closing.wait()
            self.close_connection = True
            return
        parts = [unquote(p) for p in url.path.strip("/").split("/")]
        try:
            if self._writes(parts, body):
                return
            if parts[0] == "api" and len(parts) > 2 and parts[1] in ("models", "datasets"):
                self._api(parts[1], parts[2:], parse_qs(url.query), body)
            elif "resolve" in parts:
                kind = "datasets" if parts[0] == "datasets" else "models"
                parts = parts[1:] if kind == "datasets" else parts
                at = parts.index("resolve")
                self._file(kind, "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
            else:
                self._send(200 if url.path in ("", "/") else 404, b"{}")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _writes(self, parts: list[str], body: bytes) -> bool:
        """Answer what makes and fills repositories; False if the request is none of that."""
        if parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:1] == ["uploads"] and self.command == "PUT":
            self.hub.uploads[parts[1]] = body
            self._json({})
        elif parts[-4:] == ["info", "lfs", "objects", "batch"] and self._may_write(parts[0]):
            url = f"{self.hub.url}/uploads/"
            made = [o | {"actions": {"upload": {"href": url + o["oid"]}}} for o in json.loads(body)["objects"]]
            self._json({"transfer": "basic", "objects": made})
        elif len(parts) == 6 and parts[:2] == ["api", "models"] and parts[4] in ("preupload", "commit"):
            if self._may_write(parts[2]):
                (self._preupload if parts[4] == "preupload" else self._commit)("/".join(parts[2:4]), body)
        else:
            return False
        return True

    def _may_write(self, owner: str) -> bool:
        if not self._authorised():
            self._problem(401, "", "Invalid username or password.")
        elif owner != self.hub.user:
            self._problem(403, "", f"You don't have the rights to write for {owner}")
        return self._authorised() and owner == self.hub.user

    def _create(self, wanted: dict) -> None:
        owner = wanted.get("organization") or self.hub.user
        if not self._may_write(owner):
            return
        repo = f"{owner}/{wanted['name']}"
        there = repo in self.hub.repositories["models"]
        if not there:
            folder = self.hub.store / repo
            folder.mkdir(parents=True)
            self.hub.repositories["models"][repo] = folder
            if wanted.get("visibility") == "private":
                self.hub.private.add(repo)
        about = json.dumps({"url": f"{self.hub.url}/{repo}", "name": repo, "error": "You already created this model"})
        self._send(409 if there else 200, about.encode())

    def _preupload(self, repo: str, body: bytes) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": modes})

    def _commit(self, repo: str, body: bytes) -> None:
        folder = self.hub.repositories["models"][repo]
        for line in map(json.loads, body.splitlines()):
            if line["key"] in ("file", "lfsFile"):
                value = line["value"]
                path = folder / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                inline = line["key"] == "file"
                path.write_bytes(base64.b64decode(value["content"]) if inline else self.hub.uploads[value["oid"]])
        commit = self.hub.commit("models", repo)
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _api(self, kind: str, parts: list[str], query: dict, body: bytes) -> None:
        verbs = ("revision", "tree", "paths-info", "refs", "commits")
        at = next((i for i, p in enumerate(parts) if p in verbs), len(parts))
        repo, rest = "/".join(parts[:at]), parts[at:]
        folder = self._repository(kind, repo)
        if folder is None:
            return
        commit = self.hub.commit(kind, repo)
        verb, revision = (rest[0], rest[1] if len(rest) > 1 else "main") if rest else ("revision", "main")
        if verb == "refs":
            self._json({"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": commit}], "tags": []})
            return
        if revision not in ("main", commit):
            self._problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        names = _names(folder)
        if verb == "tree":
            self._tree(folder, names, "/".join(rest[2:]), query.get("recursive", ["false"])[0].lower() == "true")
        elif verb == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            found = [_entry(folder, n) for n in wanted if n in names]
            directories = [w for w in wanted if any(n.startswith(w.rstrip("/") + "/") for n in names)]
            self._json(found + [{"type": "directory", "path": d, "oid": commit} for d in directories])
        else:
            siblings = []
            for name in names:
                entry = _entry(folder, name)
                sibling: dict = {"rfilename": name}
                if "blobs" in query:
                    sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                    if "lfs" in entry:
                        lfs = entry["lfs"]
                        sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 134}
                siblings.append(sibling)
            gated = "auto" if repo in self.hub.gated else False
            about = {
                "id": repo,
                "sha": commit,
                "private": repo in self.hub.private,
                "gated": gated,
                "tags": [],
                "siblings": siblings,
            }
            self._json(about | {"downloads": 0, "likes": 0, "lastModified": "2025-01-01T00:00:00.000Z"})

    def _tree(self, folder: Path, names: list[str], under: str, recursive: bool) -> None:
        prefix = f"{under}/" if under else ""
        inside = [n for n in names if n.startswith(prefix)]
        if under and not inside:
            self._problem(404, "EntryNotFound", f"{under} does not exist")
            return
        entries, directories = [], set()
        for name in inside:
            head, slash, _ = name[len(prefix) :].partition("/")
            if slash and not recursive:
                directories.add(prefix + head)
            else:
                entries.append(_entry(folder, name))
                if recursive:
                    directories |= {str(p) for p in Path(name).parents if str(p) != "." and str(p).startswith(under)}
        self._json(
            [{"type": "directory", "path": d, "oid": "0" * 40, "size": 0} for d in sorted(directories)] + entries
        )

    def _file(self, kind: str, repo: str, revision: str, name: str) -> None:
        folder = self._repository(kind, repo)
        if folder is None:
            return
        if repo in self.hub.gated and not self._authorised():
            status = 403 if self.headers.get("Authorization") else 401
            self._problem(status, "GatedRepo", f"Access to {kind} {repo} is restricted.")
            return
        commit = self.hub.commit(kind, repo)
        if revision not in ("main", commit):
            self._problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if name not in _names(folder):
            self._problem(404, "EntryNotFound", "Entry not found", commit)
            return
        if self.hub.failing:
            self._problem(self.hub.failing, "", "The fake Hub fails as it was told to")
            return
        content, entry = (folder / name).read_bytes(), _entry(folder, name)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        start, end = self._range(len(content))
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        if "lfs" in entry:
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{etag}"')
        self.end_headers()
        if self.command == "GET":
            self._send_content(content[start:end])

    def _send_content(self, content: bytes) -> None:
        hub = self.hub
        cut = len(content)
        with hub.lock:
            if hub.break_after and hub.breaks and len(content) > hub.break_after:
                hub.breaks -= 1
                cut = hub.break_after
        step = max(1, hub.rate // 20) if hub.rate else 1 << 16
        for at in range(0, cut, step):
            piece = content[at : min(cut, at + step)]
            self.wfile.write(piece)
            with hub.lock:
                hub.served += len(piece)
            if hub.rate and hub.closing.wait(0.05):
                break
        self.wfile.flush()
        if cut < len(content):
            self.close_connection = True

    def _range(self, size: int) -> tuple[int, int]:
        asked = (self.headers.get("Range") or "").removeprefix("bytes=")
        first, _, last = asked.partition("-")
        if not asked:
            return 0, size
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1 if last else size)

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _repository(self, kind: str, repo: str) -> Path | None:
        folder = self.hub.repositories[kind].get(repo)
        if folder is None or (repo in self.hub.private and not self._authorised()):
            status = 404 if self._authorised() else 401  # the real Hub does not tell strangers what exists
            self._problem(status, "RepoNotFound", "Repository not found")
            return None
        return folder

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _problem(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message} | ({"X-Repo-Commit": commit} if commit else {})
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def wait_until(condition, seconds: float = 10.0) -> bool:
    """Whether ``condition()`` came true within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
