"""Starts the whole: threads of the test's own process. `serve_kubernetes` is what tests use."""

from __future__ import annotations

import base64
import contextlib
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from servers.kubernetes_api.checking import versions
from servers.kubernetes_api.containers import Machine
from servers.kubernetes_api.http import Handler, RefusedError, checked
from servers.kubernetes_api.job_controller import TRACKING, JobController
from servers.kubernetes_api.kubelet import Kubelets
from servers.kubernetes_api.store import Document, MissingError, Store, now

NAMESPACES = ("default", "training")
_NODES: dict[str, dict[str, Any]] = {
    "node-a": {"labels": {"disk": "fast"}, "allocatable": {}},
    "node-b": {"labels": {}, "allocatable": {}},
}


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class KubernetesServer:
    """A running stand-in, and what a test does to it that no client could."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token = uuid.uuid4().hex
        self.store = Store()
        self.forbidden: set[tuple[str, str]] = set()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.is_closed = False
        self._machine = Machine(uuid.uuid4().hex[:12])
        for name in ("logs", "pods", "claims"):
            (directory / name).mkdir()
        self.kubelets = Kubelets(
            self.store, self._machine, directory, {name: dict(about) for name, about in _NODES.items()}
        )
        self._controller = JobController(self.store)
        handler = type("BoundHandler", (Handler,), {"cluster": self})
        self._http = _HTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def address(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig whose only context is this server."""
        import yaml

        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.address}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path

    def create(self, kind: str, plural: str, namespace: str, document: Any) -> Document:
        """What a POST does: check, fill in what the server fills in, keep."""
        if namespace not in NAMESPACES:
            raise RefusedError(404, "NotFound", f'namespaces "{namespace}" not found')
        checked(kind, plural, document, versions()[-1])
        document["metadata"].setdefault("namespace", namespace)
        if document["metadata"]["namespace"] != namespace:
            raise RefusedError(400, "BadRequest", "the namespace of the object does not match the request's")
        if plural in ("jobs", "jobsets", "trainjobs"):
            document.setdefault("status", {})
        if plural == "jobs":
            document["spec"].setdefault("parallelism", 1)
            document["spec"].setdefault("completions", document["spec"]["parallelism"])
        return self.store.create(plural, document)

    def note(self, verb: str, plural: str) -> None:
        """Count a call."""
        self.calls[verb, plural] += 1

    def put_secret(self, name: str, data: Mapping[str, str], namespace: str = "default") -> None:
        """Make a Secret, or add to it."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        try:
            self.store.change("secrets", namespace, name, lambda one: one["data"].update(encoded))
        except MissingError:
            metadata = {"name": name, "namespace": namespace}
            self.store.create("secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded})

    def pods_of(self, job: str, namespace: str = "default") -> list[Document]:
        """The pods of a Job, by rank and age."""
        label = "batch.kubernetes.io/job-name"
        found = [pod for pod in self.store.list("pods", namespace) if pod["metadata"]["labels"].get(label) == job]
        return sorted(found, key=lambda pod: (pod["spec"]["hostname"], int(pod["metadata"]["resourceVersion"])))

    def evict(self, pod: Document, message: str = "The node was low on resource: memory.") -> None:
        """What a kubelet does under pressure: the pod has failed, and its container is killed."""

        def put_out(one: Document) -> None:
            one["status"].update(phase="Failed", reason="Evicted", message=message)
            _disrupt(one, "TerminationByKubelet", message)

        self._change(pod, put_out)
        self.kubelets.kill(pod)

    def preempt(self, pod: Document) -> None:
        """What the scheduler does for a pod of a higher priority: it is deleted, with its grace."""
        message = "default-scheduler: preempting to accommodate a higher priority pod"
        self._change(pod, lambda one: _disrupt(one, "PreemptionByScheduler", message))
        self.store.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def lose_node(self, node: str) -> None:
        """A machine dies: its containers are gone, and nobody tells; after a while Kubernetes says it hears nothing."""
        self.kubelets.lost.add(node)
        for pod in self._pods_on(node):
            self.kubelets.kill(pod)
            silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": now()}
            self._change(pod, lambda one, silent=silent: _add(one, silent))

    def remove_node(self, node: str) -> None:
        """Its object is deleted, and the pod garbage collector ends its pods."""
        message = "PodGC: node no longer exists"

        def collect(one: Document) -> None:
            one["status"].update(phase="Failed")
            _disrupt(one, "DeletionByPodGC", message)
            one["metadata"]["finalizers"] = [name for name in one["metadata"]["finalizers"] if name == TRACKING]

        for pod in self._pods_on(node):
            self._change(pod, collect)

    def _pods_on(self, node: str) -> list[Document]:
        ended = ("Succeeded", "Failed")
        pods = self.store.list("pods", "")
        return [pod for pod in pods if pod["spec"].get("nodeName") == node and pod["status"]["phase"] not in ended]

    def _change(self, pod: Document, how: Any) -> None:
        self.store.change("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], how)

    def _look(self) -> None:
        """Controllers and kubelets look whenever something has changed, and now and then."""
        while not self.is_closed:
            revision = self.store.revision
            self._controller.reconcile()
            self.kubelets.look()
            self._collect()
            with self.store.changed:
                if self.store.revision == revision:
                    self.store.changed.wait(0.05)

    def _collect(self) -> None:
        """What belongs to an object that is gone goes too."""
        owners = {
            one["metadata"]["uid"] for plural in ("jobs", "jobsets", "trainjobs") for one in self.store.list(plural, "")
        }
        for plural in ("pods", "services", "configmaps"):
            for one in self.store.list(plural, ""):
                references = {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
                if references and not references & owners:
                    self._remove(plural, one)

    def _remove(self, plural: str, document: Document) -> None:
        def let_go(one: Document) -> None:
            one["metadata"]["finalizers"] = [name for name in one["metadata"].get("finalizers", ()) if name != TRACKING]

        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        with contextlib.suppress(MissingError):
            self.store.delete(plural, namespace, name)
            self.store.change(plural, namespace, name, let_go)

    def close(self) -> None:
        """End everything."""
        self.is_closed = True
        self._http.shutdown()
        self._http.server_close()
        self._machine.sweep()


def _disrupt(pod: Document, reason: str, message: str) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    _add(pod, {**condition, "lastTransitionTime": now()})


def _add(pod: Document, condition: Document) -> None:
    others = [one for one in pod["status"].get("conditions", []) if one["type"] != condition["type"]]
    pod["status"]["conditions"] = [*others, condition]


@contextmanager
def serve_kubernetes() -> Iterator[KubernetesServer]:
    """A cluster of two nodes, until the block ends. Needs a Docker daemon."""
    with tempfile.TemporaryDirectory(prefix="tunewright-kubernetes-") as directory:
        server = KubernetesServer(Path(directory))
        try:
            yield server
        finally:
            server.close()
