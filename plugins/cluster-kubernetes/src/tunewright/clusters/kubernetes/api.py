"""The API server, through the official client, which is imported when something is asked. Documents are plain JSON.

Jobs, JobSets and TrainJobs all go through the client's `CustomObjectsApi`, which makes the same requests as its typed
classes do and leaves the answers as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tunewright.clusters.kubernetes.names import LABEL
from tunewright.clusters.kubernetes.place import Server
from tunewright.contracts.errors import SubmissionRefused, Unavailable

KINDS = {
    "job": ("batch", "v1", "jobs"),
    "jobset": ("jobset.x-k8s.io", "v1alpha2", "jobsets"),
    "trainjob": ("trainer.kubeflow.org", "v1alpha1", "trainjobs"),
}
"""Group, version and plural of what a job may be."""

MOST_NAMES = 50
"""So many jobs are asked for by their names; of more, all of ours in the namespace are listed."""

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_TIMEOUT = (_CONNECT_SECONDS, _READ_SECONDS)
_SILENT_SECONDS = 7 * 86_400.0
_PIECE_BYTES = 1 << 16
_BAD, _NOT_FOUND, _CONFLICT, _FORBIDDEN, _INVALID = 400, 404, 409, 403, 422


class Api:
    """What we ask of one server. Raises Unavailable where it cannot be asked, or will not answer us."""

    def __init__(self, server: Server) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self._namespace = server.namespace
        client = _connect(server)
        self._objects: Any = CustomObjectsApi(client)
        self._core: Any = CoreV1Api(client)

    def create(self, render: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make the job's object, or find it where it is there. Raises SubmissionRefused in the server's words."""
        kind = KINDS[render]
        try:
            with _asking({}, _what(body)):
                made: dict[str, Any] = self._objects.create_namespaced_custom_object(
                    kind[0], kind[1], self._namespace, kind[2], dict(body), _request_timeout=_TIMEOUT
                )
                return made
        except _ConflictError:
            found = self.get(render, body["metadata"]["name"])
            return found if found is not None else self.create(render, body)  # it was deleted in between

    def create_service(self, body: Mapping[str, Any]) -> None:
        """Make the service, or leave the one that is there."""
        try:
            with _asking({}, _what(body)):
                self._core.create_namespaced_service(
                    self._namespace, dict(body), _preload_content=False, _request_timeout=_TIMEOUT
                )
        except _ConflictError:
            return

    def get(self, render: str, name: str) -> dict[str, Any] | None:
        """The job's object, or None where there is none."""
        group, version, plural = KINDS[render]
        with _asking({_NOT_FOUND: None}) as answer:
            answer.body = self._objects.get_namespaced_custom_object(
                group, version, self._namespace, plural, name, _request_timeout=_TIMEOUT
            )
        found: dict[str, Any] | None = answer.body
        return found

    def patch(self, render: str, name: str, change: Mapping[str, Any]) -> None:
        """Change the job's object; one that is gone is left alone. None in `change` removes what is there."""
        group, version, plural = KINDS[render]
        with _asking({_NOT_FOUND: None}):
            self._objects.patch_namespaced_custom_object(
                group, version, self._namespace, plural, name, dict(change), _request_timeout=_TIMEOUT
            )

    def list_jobs(self, render: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """The objects of these names, and maybe others of ours: one call."""
        group, version, plural = KINDS[render]
        with _asking({_NOT_FOUND: None}) as answer:
            answer.body = self._objects.list_namespaced_custom_object(
                group, version, self._namespace, plural, label_selector=_selector(names), _request_timeout=_TIMEOUT
            )
        return (answer.body or {}).get("items") or []

    def list_pods(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The pods of these jobs, and maybe others of ours: one call."""
        with _asking({}):
            response = self._core.list_namespaced_pod(
                self._namespace, label_selector=_selector(names), _preload_content=False, _request_timeout=_TIMEOUT
            )
            items: list[dict[str, Any]] = json.loads(response.data).get("items") or []
            return items

    def has_secret(self, name: str, key: str) -> bool | None:
        """Whether the Secret has the key; None where we may not look."""
        with _asking({_NOT_FOUND: {}, _FORBIDDEN: None}) as answer:
            response = self._core.read_namespaced_secret(
                name, self._namespace, _preload_content=False, _request_timeout=_TIMEOUT
            )
            answer.body = json.loads(response.data)
        return None if answer.body is None else key in (answer.body.get("data") or {})

    def pod_log(self, pod: str, container: str, follow: bool) -> Iterator[bytes]:
        """The bytes that a pod wrote, as its machine kept them. Nothing where they are gone, or not there yet."""
        with _asking({_BAD: None, _NOT_FOUND: None}) as answer:
            answer.body = self._core.read_namespaced_pod_log(
                pod, self._namespace, container=container, follow=follow, _preload_content=False,
                _request_timeout=(_CONNECT_SECONDS, _SILENT_SECONDS if follow else _READ_SECONDS),
            )  # fmt: skip
            if answer.body is not None:
                yield from _streamed(answer.body)

    def watch_job(self, render: str, name: str, seconds: int) -> Iterator[dict[str, Any]]:
        """The job's object as it is now, and each time it changes, for so long. A deleted one is an empty object."""
        group, version, plural = KINDS[render]
        with _asking({}):
            response = self._objects.list_namespaced_custom_object(
                group, version, self._namespace, plural, label_selector=_selector([name]), watch=True,
                timeout_seconds=seconds, _preload_content=False, _request_timeout=(_CONNECT_SECONDS, seconds + 30),
            )  # fmt: skip
            rest = b""
            for piece in _streamed(response):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (_watched(json.loads(line)) for line in lines if line.strip())


def _what(body: Mapping[str, Any]) -> str:
    return f"{body['kind']} `{body['metadata']['name']}`"


def _watched(event: Mapping[str, Any]) -> dict[str, Any]:
    return {} if event["type"] in ("DELETED", "ERROR") else event["object"]


def _streamed(response: Any) -> Iterator[bytes]:
    """What arrives, as soon as it does: `stream` of urllib3 waits for a piece to be full where nothing is chunked."""
    try:
        yield from response.stream(_PIECE_BYTES)
    finally:
        response.close()


def _selector(names: Sequence[str]) -> str:
    return f"{LABEL}/name in ({','.join(names)})" if len(names) <= MOST_NAMES else f"{LABEL}/name"


def _connect(server: Server) -> Any:
    """A client, by the kubeconfig, or as a pod of the cluster itself."""
    import os

    from kubernetes import client
    from kubernetes import config as untyped
    from kubernetes.config import ConfigException

    config: Any = untyped
    try:
        if server.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and not has_kubeconfig(None):
            configuration = client.Configuration()
            config.load_incluster_config(client_configuration=configuration)
            return client.ApiClient(configuration)
        file = os.path.expanduser(server.kubeconfig) if server.kubeconfig else None
        return config.new_client_from_config(config_file=file, context=server.context, persist_config=False)
    except (ConfigException, OSError) as error:
        hint = "set cluster.options.kubeconfig and .context, or KUBECONFIG"
        raise Unavailable(f"no Kubernetes cluster is configured: {error}", hint) from None


def has_kubeconfig(path: str | None) -> bool:
    """Whether there is a kubeconfig, as the client looks for it."""
    import os

    places = [path] if path else os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
    return any(os.path.exists(os.path.expanduser(place)) for place in places if place)


class _ConflictError(Exception):
    """There is an object of this name."""


class _Answer:
    """What a call gave, or what stands for its status."""

    body: Any = None


@contextmanager
def _asking(expected: Mapping[int, Any], refuses: str = "") -> Iterator[_Answer]:
    """Turn what goes wrong into our errors.

    `expected`: by HTTP status, what counts as the answer. `refuses`: an object that the server may not want, or have.
    """
    from urllib3.exceptions import HTTPError  # pants: no-infer-dep (kubernetes brings it)

    from kubernetes.client import ApiException

    answer = _Answer()
    try:
        yield answer
    except ApiException as error:
        if error.status in expected:
            answer.body = expected[error.status]
        elif refuses and error.status == _CONFLICT:
            raise _ConflictError from None
        elif refuses and error.status in (_BAD, _FORBIDDEN, _NOT_FOUND, _INVALID):
            raise SubmissionRefused(f"{refuses} is refused: {_words(error)}", _hint(error.status)) from None
        else:
            message = f"the Kubernetes API answers {error.status}: {_words(error)}"
            raise Unavailable(message, _hint(error.status)) from None
    except (HTTPError, OSError) as error:
        message = f"the Kubernetes API cannot be reached: {error}"
        raise Unavailable(message, "`kubectl cluster-info` says what is wrong") from None


def _words(error: Any) -> str:
    """What the server says, in its own words."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or error.status)


def _hint(status: int) -> str:
    hints = {
        401: "log in again",
        _FORBIDDEN: "the README of tunewright-cluster-kubernetes has the rights that are needed",
        _NOT_FOUND: "is there such a namespace, and the operator of what cluster.options.render names?",
    }
    return hints.get(status, "")
