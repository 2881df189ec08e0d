"""A server on loopback that answers enough of Weights & Biases' protocol, and keeps every word."""

import contextlib
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOBODY = {"edges": []}
PERSON = {"id": "u1", "entity": "me", "username": "me", "flags": "{}", "teams": NOBODY,
          "name": "me", "email": "me@example.org", "admin": False, "apiKeys": NOBODY,
          "deletedAt": None, "user": None}
SERVER = {"cliVersionInfo": {"max_cli_version": "0.99.0"}, "features": [],
          "latestLocalVersionInfo": None, "expose": {}}


def upload(name, host, **more):
    return {"id": "f", "name": name, "displayName": name, "uploadHeaders": [],
            "uploadUrl": f"http://{host}/upload/{name}", "uploadMultipartUrls": None, **more}


def run(values, host):
    project = {"id": "p1", "name": values.get("project") or "p",
               "entity": {"id": "e1", "name": "me"}}
    bucket = {"id": "b1", "name": values.get("name"), "displayName": values.get("displayName"),
              "description": None, "config": values.get("config"), "sweepName": None,
              "historyLineCount": 0, "project": project}
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


def run_files(values, host):
    files = [upload(name, host, uploadUrl=f"http://{host}/upload/{values['run']}/{name}")
             for name in values["files"]]
    return {"createRunFiles": {"runID": "b1", "uploadHeaders": [], "files": files}}


def artifact_files(values, host):
    wanted = values.get("input", values)["artifactFiles"]
    nodes = [upload(w["name"], host, storagePath="x", artifact={"id": w["artifactID"]})
             for w in wanted]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def manifest(field):
    return lambda values, host: {field: {"artifactManifest": {
        "id": "m1", "file": upload("wandb_manifest.json", host)}}}


def stored_run(run):
    """A run as the API tells it."""
    return {"projectId": "1", "id": run["name"], "tags": run.get("tags") or [], "sweepName": None,
            "state": "finished", "commit": None, "readOnly": False, "description": None,
            "notes": run.get("notes"), "createdAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00", "systemMetrics": "{}", "historyLineCount": 1,
            "historyKeys": None, "user": {"name": "me", "username": "me"}, "name": run["name"],
            "displayName": run["displayName"], "config": run["config"], "group": run["groupName"],
            "jobType": run["jobType"], "summaryMetrics": run["summary"]}


ANSWERS = {  # the first field that a query names decides
    "upsertBucket": run, "createRunFiles": run_files,
    "createArtifactManifest": manifest("createArtifactManifest"),
    "updateArtifactManifest": manifest("updateArtifactManifest"),
    "createArtifactFiles": artifact_files,
    "createArtifact(": lambda values, host: {"createArtifact": {"artifact": {
        "id": "a0", "state": "PENDING",
        "artifactSequence": {"id": "s1", "latestArtifact": None}}}},
    "commitArtifact": lambda values, host: {"commitArtifact": {"artifact": {
        "id": values.get("input", values)["artifactID"], "digest": "d"}}},
    "RunStoppedStatus": lambda values, host: {"project": {"run": {"stopped": False}}},
    "ArtifactType": lambda values, host: {"project": None},
    "serverInfo": lambda values, host: {"serverInfo": SERVER},
    "viewer": lambda values, host: {"viewer": PERSON},
}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _take(self):
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        self.server.requests.append((self.command, self.path, str(self.headers), content))
        return content

    def _answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self._take()
        self._answer({})

    do_PUT = do_GET

    def do_POST(self):
        content = self._take()
        if "graphql" not in self.path:
            return self._answer({})
        asked = json.loads(content)
        values, host = asked.get("variables") or {}, self.headers.get("Host")
        if "query Runs(" in asked["query"]:
            return self._answer({"data": self.server.runs_of(values)})
        found = next((make for field, make in ANSWERS.items() if field in asked["query"]), None)
        return self._answer({"data": found(values, host) if found else {}})


class Server(ThreadingHTTPServer):
    """``requests`` holds (method, path, headers, body) of everything that arrived."""

    daemon_threads = True

    def __init__(self):
        self.requests = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def history(self):
        """The rows of numbers, in order."""
        rows = []
        for _, path, _, content in list(self.requests):
            if path.endswith("/file_stream"):
                files = json.loads(content).get("files") or {}
                lines = files.get("wandb-history.jsonl", {}).get("content", [])
                rows += [json.loads(line) for line in lines]
        return rows

    @property
    def runs(self):
        """The runs that arrived, by name, with all that was said of each."""
        runs = {}
        for method, path, _, content in list(self.requests):
            if b"upsertBucket" in content and path.endswith("graphql"):
                said = json.loads(content)["variables"]
                known = runs.setdefault(said["name"], {"summary": "{}", **said})
                known.update({k: v for k, v in said.items() if v is not None})
            if method == "PUT" and path.endswith("/wandb-summary.json"):
                runs[path.split("/")[-2]]["summary"] = content.decode()
        return list(runs.values())

    def runs_of(self, values):
        """The answer to a question for the runs of a project, all on one page."""
        wanted = json.loads(values["filters"]).get("group")
        runs = [run for run in self.runs if run["project"] == values["project"]]
        if not runs:
            return {"project": None}
        edges = [{"node": stored_run(run), "cursor": run["name"]} for run in runs
                 if wanted in (None, run["groupName"])]
        return {"project": {"internalId": "1", "runCount": len(edges), "readOnly": False,
                            "runs": {"edges": edges, "pageInfo": {"endCursor": None,
                                                                  "hasNextPage": False}}}}

    @property
    def summary(self):
        """The summary that was uploaded at the end."""
        sent = [content for method, path, _, content in list(self.requests)
                if method == "PUT" and path.endswith("wandb-summary.json")]
        return json.loads(sent[-1])

    @property
    def everything(self):
        """All that was sent, as one text."""
        return "\n".join(f"{path}\n{headers}\n{content.decode('utf-8', 'replace')}"
                         for _, path, headers, content in list(self.requests))


@contextlib.contextmanager
def serving():
    """A running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
