"""Scheduler and kubelets: put pods on nodes, run them as containers, and write down what becomes of them."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers.kubernetes_api.containers import ContainerError, Machine, Wanted
from servers.kubernetes_api.expansion import expand
from servers.kubernetes_api.store import Document, MissingError, Store, now

HOLD = "test/kubelet"
"""The finalizer by which a pod stays until its container has ended."""

_RETRY_SECONDS = 0.1
_SERVICE_WAIT_SECONDS = 3.0
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._:/-]*(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]  # else it raises
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]


class Kubelets:
    """All nodes' kubelets and the scheduler. A thread for each pod that runs."""

    def __init__(self, store: Store, machine: Machine, directory: Path, nodes: dict[str, dict[str, Any]]) -> None:
        self._store = store
        self._machine = machine
        self._directory: Path = directory
        self.nodes = nodes
        self.lost: set[str] = set()
        self._containers: dict[str, str] = {}
        self._taken: set[str] = set()
        self._ending: set[str] = set()
        self._killed: set[str] = set()

    def log_path(self, uid: str) -> Path:
        """Where the pod's container writes."""
        return self._directory / "logs" / uid

    def has_started(self, uid: str) -> bool:
        """Whether the pod's container has begun."""
        return self.log_path(uid).exists()

    def look(self) -> None:
        """Schedule what waits, start what is scheduled, end what is deleted."""
        pods = self._store.list("pods", "")
        for pod in list(pods):
            uid, is_going = pod["metadata"]["uid"], "deletionTimestamp" in pod["metadata"]
            if is_going and uid not in self._taken:
                self._let_go(pod, {"phase": "Failed"})
            elif is_going and uid not in self._ending and pod["spec"].get("nodeName") not in self.lost:
                self._ending.add(uid)
                threading.Thread(target=self._end, args=(pod,), daemon=True).start()
            elif not pod["spec"].get("nodeName") and not is_going:
                self._schedule(pod, pods)
            elif uid not in self._taken and not is_going and pod["status"]["phase"] == "Pending":
                self._taken.add(uid)
                threading.Thread(target=self._run, args=(pod,), daemon=True).start()

    # Scheduling.

    def _schedule(self, pod: Document, pods: list[Document]) -> None:
        refusals: dict[str, int] = {}
        for node, about in self.nodes.items():
            problem = "node(s) were unreachable" if node in self.lost else _unfit(pod, node, about, pods)
            if not problem:
                placed = {**pod, "spec": {**pod["spec"], "nodeName": node}}
                pods[:] = [placed if one is pod else one for one in pods]  # taken into account by who comes after
                self._change(pod, lambda one, node=node: _bind(one, node))  # type: ignore[misc]  # bound now
                return
            refusals[problem] = refusals.get(problem, 0) + 1
        words = ", ".join(f"{count} {problem}" for problem, count in refusals.items())
        message = f"0/{len(self.nodes)} nodes are available: {words}."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._change(pod, lambda one: _set_condition(one, condition))

    # Running.

    def _run(self, pod: Document) -> None:
        with contextlib.suppress(MissingError):
            container = self._made(pod)
            if container:
                self._follow(pod, container)

    def _made(self, pod: Document) -> str | None:
        """The container, once all it needs is there; None where the pod went before."""
        while True:
            current = self._store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            if "deletionTimestamp" in current["metadata"] or pod["spec"]["nodeName"] in self.lost:
                self._let_go(pod, {"phase": "Failed"})
                return None
            try:
                return self._machine.create(self._wanted(pod))
            except _WaitingError as error:
                self._wait(pod, error.reason, str(error))
            except ContainerError as error:
                self._wait(pod, "CreateContainerError", str(error))
            time.sleep(_RETRY_SECONDS)

    def _follow(self, pod: Document, container: str) -> None:
        uid = pod["metadata"]["uid"]
        self._containers[uid] = container
        started_at = now()
        try:
            writer = self._machine.start(container, self.log_path(uid))
        except ContainerError as error:
            terminated = {"exitCode": 128, "reason": "StartError", "message": str(error)}
            self._ended(pod, {**terminated, "startedAt": started_at, "finishedAt": now()})
            self._machine.remove(container)
            return
        self._change(pod, lambda one: _begin(one, started_at))
        code, is_out_of_memory = self._machine.wait(container)
        writer.join(10)
        self._machine.remove(container)
        if pod["spec"]["nodeName"] in self.lost:
            return  # nobody is there to tell
        reason = "OOMKilled" if is_out_of_memory and code else ("Error" if code else "Completed")
        terminated = {"exitCode": code, "reason": reason, "startedAt": started_at, "finishedAt": now()}
        message = self._pod_directory(uid).joinpath("termination-log").read_text(errors="replace")[:4096]
        self._ended(pod, {**terminated, **({"message": message} if message else {})})

    def _ended(self, pod: Document, terminated: Document) -> None:
        phase = "Failed" if terminated["exitCode"] else "Succeeded"

        def end(one: Document) -> None:
            one["status"]["containerStatuses"] = [_container_status(one, {"terminated": terminated})]
            if one["status"]["phase"] != "Failed":  # an evicted pod has said so already
                one["status"]["phase"] = phase
            _release(one)

        with contextlib.suppress(MissingError):
            self._change(pod, end)

    def _end(self, pod: Document) -> None:
        """A deleted pod: its container is told, then killed. Its own thread sees its end."""
        uid = pod["metadata"]["uid"]
        deadline = time.monotonic() + 50
        while uid not in self._containers and time.monotonic() < deadline:
            with contextlib.suppress(MissingError):
                if HOLD not in self._store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])[
                    "metadata"
                ].get("finalizers", ()):
                    return
            time.sleep(0.02)
        if uid in self._containers:
            # Docker may not have begun it yet: then it is not told.
            while not self.has_started(uid) and time.monotonic() < deadline:
                time.sleep(0.02)
            self._machine.stop(self._containers[uid], pod["spec"].get("terminationGracePeriodSeconds", 30))

    def kill(self, pod: Document) -> None:
        """SIGKILL from outside: its node goes, or puts it out."""
        if container := self._containers.get(pod["metadata"]["uid"]):
            self._machine.kill(container)

    def _let_go(self, pod: Document, status: Document) -> None:
        def release(one: Document) -> None:
            if one["status"]["phase"] not in ("Succeeded", "Failed"):
                one["status"].update(status)
            _release(one)

        with contextlib.suppress(MissingError):
            self._change(pod, release)

    def _wait(self, pod: Document, reason: str, message: str) -> None:
        waiting = {"waiting": {"reason": reason, "message": message}}

        def note(one: Document) -> None:
            one["status"]["containerStatuses"] = [_container_status(one, waiting)]

        self._change(pod, note)

    def _change(self, pod: Document, how: Callable[[Document], object]) -> None:
        self._store.change("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], how)

    # From a pod's spec to a container.

    def _wanted(self, pod: Document) -> Wanted:
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        image = container["image"]
        if not _IMAGE_NAME.fullmatch(image):
            raise _WaitingError("InvalidImageName", f'Failed to apply default image tag "{image}": invalid reference')
        if not self._machine.has_image(image):
            reason = "ErrImageNeverPull" if container.get("imagePullPolicy") == "Never" else "ImagePullBackOff"
            raise _WaitingError(reason, f'Back-off pulling image "{image}": failed to resolve reference: not found')
        variables = self._variables(pod, container)
        limits = (container.get("resources") or {}).get("limits") or {}
        memory = [one["emptyDir"] for one in spec.get("volumes", ()) if (one.get("emptyDir") or {}).get("medium")]
        security = spec.get("securityContext") or {}
        user = f"{security['runAsUser']}:{security.get('runAsGroup', 0)}" if "runAsUser" in security else None
        names = self._names(pod)
        return Wanted(
            image=image,
            command=[expand(one, variables) for one in (*container.get("command", ()), *container.get("args", ()))],
            variables=variables,
            hostname=spec.get("hostname") or pod["metadata"]["name"],
            user=user,
            memory_bytes=int(quantity(limits["memory"])) if "memory" in limits else None,
            shm_bytes=int(quantity(memory[0]["sizeLimit"])) if memory and "sizeLimit" in memory[0] else None,
            binds=self._binds(pod, container),
            network=self._machine.network() if names else None,
            names=names,
        )

    def _names(self, pod: Document) -> list[str]:
        """What other pods call it: its names where a headless service selects it, which may come a little later."""
        subdomain = pod["spec"].get("subdomain")
        deadline = time.monotonic() + _SERVICE_WAIT_SECONDS
        while subdomain and time.monotonic() < deadline:
            for service in self._store.list("services", pod["metadata"]["namespace"]):
                selector = service["spec"].get("selector") or {}
                if service["metadata"]["name"] == subdomain and selector.items() <= pod["metadata"]["labels"].items():
                    host, namespace = pod["spec"]["hostname"], pod["metadata"]["namespace"]
                    return [f"{host}.{subdomain}", f"{host}.{subdomain}.{namespace}.svc.cluster.local"]
            time.sleep(0.05)
        return []

    def _variables(self, pod: Document, container: Document) -> dict[str, str]:
        """The server's address, links of services unless they are off, then `env`, in which `$(NAME)` is expanded."""
        given = {
            "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443",
            "KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
        }  # fmt: skip
        if pod["spec"].get("enableServiceLinks", True):
            for service in self._store.list("services", pod["metadata"]["namespace"]):
                given[f"{service['metadata']['name'].upper().replace('-', '_')}_SERVICE_HOST"] = "10.96.0.2"
        for variable in container.get("env") or ():
            source = variable.get("valueFrom")
            value = self._from(pod, source) if source else expand(variable.get("value", ""), given)
            given[variable["name"]] = value
        return given

    def _from(self, pod: Document, source: Document) -> str:
        if reference := source.get("secretKeyRef"):
            with contextlib.suppress(MissingError, KeyError):
                secret = self._store.get("secrets", pod["metadata"]["namespace"], reference["name"])
                return base64.b64decode(secret["data"][reference["key"]]).decode()
            raise _WaitingError("CreateContainerConfigError", f'secret "{reference["name"]}" not found')
        path = source["fieldRef"]["fieldPath"]
        if found := re.fullmatch(r"metadata\.(annotations|labels)\['(.*)'\]", path):
            return str((pod["metadata"].get(found.group(1)) or {}).get(found.group(2), ""))
        value: Any = pod
        for part in path.split("."):
            value = value[part]
        return str(value)

    def _binds(self, pod: Document, container: Document) -> list[str]:
        own = self._pod_directory(pod["metadata"]["uid"])
        message = own / "termination-log"
        message.touch()
        message.chmod(0o666)
        binds = [f"{message}:{container.get('terminationMessagePath', '/dev/termination-log')}"]
        volumes = {one["name"]: one for one in pod["spec"].get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            source = self._source(pod, volumes[mount["name"]], own)
            if source is not None:
                full = source / mount["subPath"] if mount.get("subPath") else source
                full.mkdir(parents=True, exist_ok=True)
                binds.append(f"{full}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
        return binds

    def _source(self, pod: Document, volume: Document, own: Path) -> Path | None:
        """The directory of this machine that is the volume; None where Docker has it itself."""
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if claim := volume.get("persistentVolumeClaim"):
            return self._directory.joinpath("claims", claim["claimName"])
        if secret := volume.get("secret"):
            directory = own.joinpath(volume["name"])
            directory.mkdir(exist_ok=True)
            data = self._store.get("secrets", pod["metadata"]["namespace"], secret["secretName"])["data"]
            for name, value in data.items():
                (directory / name).write_bytes(base64.b64decode(value))
            return directory
        if (volume.get("emptyDir") or {}).get("medium"):
            return None  # Docker's own /dev/shm
        return own.joinpath(volume["name"])

    def _pod_directory(self, uid: str) -> Path:
        directory = self._directory / "pods" / uid
        directory.mkdir(parents=True, exist_ok=True)
        return directory


class _WaitingError(Exception):
    """Why a container cannot be made yet."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _unfit(pod: Document, node: str, about: dict[str, Any], pods: list[Document]) -> str:
    selector = pod["spec"].get("nodeSelector") or {}
    if not selector.items() <= about.get("labels", {}).items():
        return "node(s) didn't match Pod's node affinity/selector"
    here = [one for one in pods if one["spec"].get("nodeName") == node]
    running = [one for one in here if one["status"]["phase"] not in ("Succeeded", "Failed")]
    for resource, wanted in _limits(pod).items():
        if resource in ("cpu", "memory"):
            continue
        taken = sum(quantity(_limits(one).get(resource, "0")) for one in running)
        if taken + quantity(wanted) > about.get("allocatable", {}).get(resource, 0):
            return f"Insufficient {resource}"
    return ""


def _limits(pod: Document) -> dict[str, str]:
    return (pod["spec"]["containers"][0].get("resources") or {}).get("limits") or {}


def _bind(pod: Document, node: str) -> None:
    pod["spec"]["nodeName"] = node
    _set_condition(pod, {"type": "PodScheduled", "status": "True"})
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    pod["status"]["containerStatuses"] = [_container_status(pod, waiting)]


def _begin(pod: Document, started_at: str) -> None:
    if pod["status"]["phase"] == "Pending":
        pod["status"]["phase"] = "Running"
        pod["status"]["startTime"] = started_at
        pod["status"]["containerStatuses"] = [_container_status(pod, {"running": {"startedAt": started_at}})]
        _set_condition(pod, {"type": "Ready", "status": "True"})


def _container_status(pod: Document, state: Document) -> Document:
    container = pod["spec"]["containers"][0]
    own = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
    return {**own, "ready": "running" in state, "state": state}


def _set_condition(pod: Document, condition: Document) -> None:
    others = [one for one in pod["status"].get("conditions", []) if one["type"] != condition["type"]]
    old: Document = next((one for one in pod["status"].get("conditions", []) if one not in others), {})
    if any(old.get(key) != value for key, value in condition.items()):
        pod["status"]["conditions"] = [*others, {**condition, "lastTransitionTime": now()}]


def _release(pod: Document) -> None:
    pod["metadata"]["finalizers"] = [one for one in pod["metadata"].get("finalizers", ()) if one != HOLD]
