"""A stand-in of the Hugging Face hub on this machine: what huggingface_hub asks for to write and to read a model.

As the real one it takes safetensors as large files, by the batch protocol of Git LFS, sends readers of one elsewhere
with a redirect that says its hash, and names what is wrong in the header ``X-Error-Code``.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_token_of_the_stand_in"


class Hub:
    """What is there, and what was asked for.

    Attributes:
        url: Where it answers.
        repositories: {ORG/NAME: {"private": bool, "gated": bool, "files": {name: bytes}, "commits": int}}.
        large: {sha256: bytes} of what came by LFS.
        asked: (method, path) of every request.
        forbidden: Organisations in which nobody may write.
    """

    def __init__(self):
        self.url, self.repositories, self.large, self.asked, self.forbidden = "", {}, {}, [], {"not-mine"}

    def add(self, name, files, *, private=False, gated=False):
        """Put a repository there."""
        self.repositories[name] = {"private": private, "gated": gated, "files": dict(files), "commits": 1}

    def commit_of(self, name):
        """The name of its newest commit."""
        return hashlib.sha1(f"{name} {self.repositories[name]['commits']}".encode()).hexdigest()


@contextmanager
def serving():
    """``with serving() as hub:``"""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.hub.asked.append((self.command, self.path))
        if found := re.fullmatch(r"/large/(\w+)", self.path):
            return self._answer(200, self.hub.large[found[1]])
        found = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)(?:/resolve/([^/]+)/(.+))?", self.path)
        if not found:
            return self._answer(404)
        name, revision, file = found.groups()
        repository = self.hub.repositories.get(name)
        if repository is None or (repository["private"] and not self.known):
            return self._answer(404 if self.known else 401, X_Error_Code="RepoNotFound")
        if repository["gated"]:
            return self._answer(403 if self.known else 401, X_Error_Code="GatedRepo")
        commit = self.hub.commit_of(name)
        if file is None:
            return self._answer(200, {"id": name, "sha": commit, "private": repository["private"]})
        if revision not in ("main", commit):
            return self._answer(404, X_Error_Code="RevisionNotFound")
        if file not in repository["files"]:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        data = repository["files"][file]
        sha256 = hashlib.sha256(data).hexdigest()
        if not file.endswith(".safetensors"):
            return self._answer(200, data, X_Repo_Commit=commit, ETag=f'"{sha256[:40]}"')
        self.hub.large[sha256] = data
        linked = {"X_Linked_Etag": f'"{sha256}"', "X_Linked_Size": len(data)}
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # readers ask the Hub about a file, not another host
        return self._answer(302, Location=f"{elsewhere}/large/{sha256}", X_Repo_Commit=commit, **linked)

    def do_PUT(self):
        self.hub.asked.append((self.command, self.path))
        data = self._body()
        assert hashlib.sha256(data).hexdigest() == self.path.removeprefix("/large/")
        self.hub.large[self.path.removeprefix("/large/")] = data
        self._answer(200)

    def do_POST(self):
        self.hub.asked.append((self.command, self.path))
        data = self._body()
        if self.path == "/api/validate-yaml":
            assert json.loads(data)["content"].startswith("---\n")
            return self._answer(200, {})
        if not self.known:
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(json.loads(data))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._answer(200, self._batch(json.loads(data)))
        name, what = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
        if what == "preupload":
            return self._answer(200, {"files": [self._how(file) for file in json.loads(data)["files"]]})
        return self._answer(200, self._commit(name, [json.loads(line) for line in data.splitlines()]))

    def _create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] in self.hub.forbidden:
            return self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.hub.repositories:
            return self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.add(name, {".gitattributes": b""}, private=private)
        return self._answer(200, {"name": name, "url": f"{self.hub.url}/{name}"})

    def _batch(self, asked):
        def action(one):
            return {**one, "actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}", "header": {}}}}

        return {"transfer": "basic", "objects": [action(one) for one in asked["objects"]]}

    @staticmethod
    def _how(file):
        mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _commit(self, name, lines):
        repository = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository["files"][value["path"]] = self.hub.large[value["oid"]]
        repository["commits"] += 1
        commit = self.hub.commit_of(name)
        return {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"}
