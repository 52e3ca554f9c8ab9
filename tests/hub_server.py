"""A small Hub on loopback, over folders: what transformers and datasets ask for by name, and what is pushed."""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40
PUSHES = r"/(preupload|commit)/"
# How many of the next answers with a Parquet file's bytes break off in the middle; how many of the next answers, behind
# the first `free`, are that the Hub is busy, and for how many seconds; seconds that each answer takes; a token that is
# taken for expired; and a file that is forbidden to all.
FAULTS = {"left": 0, "busy": 0, "free": 0, "wait": 0, "slow": 0, "expired": None, "forbidden": None}


def etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def rows(folder, under="", recursive=True):
    """The tree of a repository as the Hub lists it."""
    listed = []
    for path in sorted((folder / under).glob("**/*" if recursive else "*")):
        kind = "file" if path.is_file() else "directory"
        size, oid = (path.stat().st_size, etag(path)) if kind == "file" else (0, "0" * 40)
        listed.append({"type": kind, "path": path.relative_to(folder).as_posix(), "size": size, "oid": oid})
    return listed


@contextmanager
def hub(repositories: dict[str, Path]):
    """Serve {"models/owner/name": folder, "datasets/owner/name": folder}; gives the endpoint's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def give(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "HEAD":
                return
            if FAULTS["left"] and self.path.endswith(".parquet"):
                FAULTS["left"] -= 1
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(body)

        def missing(self, what="Entry"):
            self.give(404, b"{}", X_Error_Code=f"{what}NotFound")

        def refused(self):
            """Whether the request has been answered by what a Hub answers that has nothing against the path."""
            time.sleep(FAULTS["slow"])
            if FAULTS["expired"] and self.headers.get("Authorization") == f"Bearer {FAULTS['expired']}":
                self.give(401, b"{}", X_Error_Message="Invalid credentials in Authorization header")
                return True
            if FAULTS["forbidden"] and self.path.endswith(FAULTS["forbidden"]):
                self.give(403, b"{}")
                return True
            FAULTS["free"] -= 1
            if FAULTS["free"] >= 0 or not FAULTS["busy"]:
                return False
            FAULTS["busy"] -= 1
            self.give(429, b"{}", Retry_After=FAULTS["wait"])
            return True

        def do_POST(self):
            wanted = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            if self.path.startswith(("/api/repos/create", "/api/validate-yaml")) or re.search(PUSHES, self.path):
                return None if self.refused() else self.take(wanted)
            found = re.match(r"/api/(\w+/[^/]+/[^/]+)/paths-info/", self.path)
            listed = rows(repositories[found[1]]) if found else []
            return self.give(200, json.dumps([row for row in listed if row["path"] in unquote(wanted)]).encode())

        def take(self, sent):
            """Take a push: a repository, how its files will come, and the files, into the folder that is served."""
            answer = {"errors": [], "warnings": []}  # of the card's front matter
            found = re.match(rf"/api/(\w+/[^/]+/[^/]+){PUSHES}", self.path)
            if "/repos/create" in self.path:
                answer = {"url": f"http://{self.headers['Host']}/someone/{json.loads(sent)['name']}"}
            elif found and found[2] == "preupload":
                files = [each["path"] for each in json.loads(sent)["files"]]
                answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
            elif found:
                for line in map(json.loads, sent.splitlines()):
                    if line["key"] == "file":
                        path = repositories[found[1]] / line["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(line["value"]["content"]))
                name = found[1].partition("/")[2]
                answer = {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
            self.give(200, json.dumps(answer).encode())

        def do_GET(self):
            if self.refused():
                return None
            path = unquote(urlparse(self.path).path)
            api = re.match(r"/api/(\w+/[^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+(?:/(.*))?)?$", path)
            if api and api[1] in repositories:
                return self.describe(api)
            file = re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)$", path)
            folder = file and repositories.get(("datasets/" if file[1] else "models/") + file[2])
            if not folder:
                return self.missing("Repo")
            if not (folder / file[3]).is_file():
                return self.missing()
            return self.send_file(folder / file[3])

        do_HEAD = do_GET

        def describe(self, api):
            folder = repositories[api[1]]
            if "/tree/" in (api[2] or ""):
                if not (folder / (api[3] or "")).is_dir():
                    return self.missing()
                return self.give(200, json.dumps(rows(folder, api[3] or "", "recursive=True" in self.path)).encode())
            name = api[1].split("/", 1)[1]
            siblings = [{"rfilename": row["path"]} for row in rows(folder) if row["type"] == "file"]
            info = {"id": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
            return self.give(200, json.dumps(info).encode())

        def send_file(self, path):
            body, headers = path.read_bytes(), {"ETag": f'"{etag(path)}"', "X_Repo_Commit": COMMIT}
            span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span and self.command == "GET":
                first, last = int(span[1]), min(int(span[2] or len(body) - 1), len(body) - 1)
                place = f"bytes {first}-{last}/{len(body)}"
                return self.give(206, body[first : last + 1], Content_Range=place, **headers)
            return self.give(200, body, Accept_Ranges="bytes", **headers)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def ask(endpoint, monkeypatch):
    """Have this process ask that Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # a client made for an earlier test asks its Hub
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
