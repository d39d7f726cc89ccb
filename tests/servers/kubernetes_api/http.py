"""The API server's paths and verbs over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from servers.kubernetes_api.checking import immutable_problems, problems, schema_problems
from servers.kubernetes_api.selectors import matches
from servers.kubernetes_api.store import ConflictError, Document, MissingError

if TYPE_CHECKING:
    from servers.kubernetes_api.server import KubernetesServer

CORE = {"configmaps": "ConfigMap", "events": "Event", "pods": "Pod", "secrets": "Secret", "services": "Service"}
KINDS = {
    **{("", "v1", plural): kind for plural, kind in CORE.items()},
    ("batch", "v1", "jobs"): "Job",
    ("jobset.x-k8s.io", "v1alpha2", "jobsets"): "JobSet",
    ("trainer.kubeflow.org", "v1alpha1", "trainjobs"): "TrainJob",
}
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)/namespaces/(?P<namespace>[^/]+)"
    r"(?:/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[^/]+))?)?)?"
)
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


class RefusedError(Exception):
    """A request that is answered by a `Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    cluster: KubernetesServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        try:
            self._route(json.loads(body) if body.strip() else None)
        except RefusedError as error:
            self._refuse(error.code, error.reason, str(error))
        except MissingError as error:
            self._refuse(404, "NotFound", f'"{error}" not found')
        except ConflictError as error:
            self._refuse(409, "AlreadyExists", f'"{error}" already exists')
        except ValueError as error:
            self._refuse(400, "BadRequest", str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, body: Any) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        found = _PATH.fullmatch(unquote(parts.path))
        kind = KINDS.get((found["group"] or "", found["version"], found["plural"])) if found else None
        if found is None or kind is None:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        namespace, plural, name = found["namespace"], found["plural"], found["name"]
        verb = _VERBS.get(self.command, "get" if name else ("watch" if query.get("watch") == "true" else "list"))
        self.cluster.note(verb, plural)
        if (verb, plural) in self.cluster.forbidden:
            message = f'{plural} is forbidden: User "test" cannot {verb} resource "{plural}" in the namespace'
            raise RefusedError(403, "Forbidden", f'{message} "{namespace}"')
        if found["part"] == "log":
            self._log(namespace, name, query)
        elif verb == "create":
            self._json(201, self.cluster.create(kind, plural, namespace, body))
        elif verb == "patch":
            self._json(200, self._patched(plural, namespace, name, body))
        elif verb == "delete":
            self._json(200, self.cluster.store.delete(plural, namespace, name))
        elif verb == "get":
            self._json(200, self.cluster.store.get(plural, namespace, name))
        elif verb == "watch":
            self._watch(plural, namespace, query)
        else:
            self._json(200, self._listed(kind, plural, namespace, query))

    def _listed(self, kind: str, plural: str, namespace: str, query: dict[str, str]) -> Document:
        store, selector = self.cluster.store, query.get("labelSelector", "")
        with store.changed:
            found = [one for one in store.list(plural, namespace) if matches(selector, _labels(one))]
            version = found[0]["apiVersion"] if found else "v1"
            metadata = {"resourceVersion": store.revision}
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": found}

    def _patched(self, plural: str, namespace: str, name: str, body: Any) -> Document:
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        if kind not in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            raise RefusedError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")

        def apply(document: Document) -> None:
            old = json.loads(json.dumps(document))
            _merge(document, body)
            found = problems(plural, document)
            if plural == "jobs":
                found += immutable_problems(old["spec"], document["spec"])
            if found:
                raise RefusedError(422, "Invalid", f'"{name}" is invalid: {"; ".join(found)}')

        return self.cluster.store.change(plural, namespace, name, apply)

    def _watch(self, plural: str, namespace: str, query: dict[str, str]) -> None:
        self._begin_chunks("application/json")
        seconds = float(query.get("timeoutSeconds", 3600))
        for word, document in self.cluster.store.watch(plural, query.get("resourceVersion"), seconds):
            is_ours = document and document["metadata"].get("namespace") == namespace
            if self.cluster.is_closed or (not word and self._has_hung_up()):
                break
            if is_ours and matches(query.get("labelSelector", ""), _labels(document)):
                self._chunk(json.dumps({"type": word, "object": document}).encode() + b"\n")
        self._chunk(b"")

    def _has_hung_up(self) -> bool:
        import select

        return bool(select.select([self.connection], [], [], 0)[0])

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> None:
        pod = self.cluster.store.get("pods", namespace, name)
        if not self.cluster.kubelets.has_started(pod["metadata"]["uid"]):
            container = pod["spec"]["containers"][0]["name"]
            message = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            raise RefusedError(400, "BadRequest", message)
        self._begin_chunks("text/plain")
        for piece in self._log_pieces(pod, query.get("follow") == "true"):
            self._chunk(piece)
        self._chunk(b"")

    def _log_pieces(self, pod: Document, is_followed: bool) -> Iterator[bytes]:
        metadata = pod["metadata"]
        with self.cluster.kubelets.log_path(metadata["uid"]).open("rb") as file:
            while True:
                phase = "gone"
                with contextlib.suppress(MissingError):
                    now = self.cluster.store.get("pods", metadata["namespace"], metadata["name"])
                    phase = now["status"]["phase"]
                while piece := file.read(1 << 16):
                    yield piece
                if not is_followed or phase != "Running" or self.cluster.is_closed:
                    return
                time.sleep(0.05)

    def _begin_chunks(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self._json(code, {**status, "message": message, "reason": reason, "code": code})

    def _json(self, code: int, document: Document) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _labels(document: Document) -> dict[str, str]:
    return document["metadata"].get("labels") or {}


def _merge(target: Document, change: Document) -> None:
    """RFC 7386: null removes."""
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def checked(kind: str, plural: str, document: Any, version: str) -> None:
    """Refuse what Kubernetes `version` would. Custom resources are not checked: their schemas are their operators'."""
    if not isinstance(document, dict) or document.get("kind") != kind:
        raise RefusedError(400, "BadRequest", f"the object provided is no {kind}")
    found = schema_problems(document, version) if plural not in ("jobsets", "trainjobs") else []
    if not found:
        found = problems(plural, document)
    if found:
        name = document.get("metadata", {}).get("name")
        raise RefusedError(422, "Invalid", f'{kind} "{name}" is invalid: {"; ".join(found)}')
