"""Parts encoded by tasks on a Ray cluster that is running: code goes to its nodes, tokens come back to this process."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import Unavailable
from tunewright.dataset_cacher.inputs import Inputs
from tunewright.dataset_cacher.preparation.executors import Executor, Note, PartReport, PartWorker
from tunewright.dataset_cacher.preparation.part_encoding import OnRows
from tunewright.dataset_cacher.preparation.parts import PartTask
from tunewright.dataset_cacher.preparation.ray_worker import Answer, Job
from tunewright.dataset_cacher.tokens.engines import FAST_THREADS_VARIABLE

ADDRESS_VARIABLE = "RAY_ADDRESS"

PARTS_PER_CPU = 3
"""Parts that wait or are encoded, for each CPU of the cluster: what the object store holds at most."""

MOST_RETRIES = 3
"""How often a part is encoded again whose process or node was lost."""

_ANSWER_SECONDS = 10.0
_COUNT_SECONDS = 10.0
"""Clusters grow and shrink: their CPUs are counted anew so often."""

_SHOWN_NODES = 8

_PEX_PACKAGE = "tunewright_pex"
"""The folder in which a packaged program travels."""

_KEPT = "what is done is kept"


def check_ray() -> None:
    """Raise Unavailable where Ray is not installed, or nobody listens at the address that is set."""
    _import_ray()
    _check_listens(os.environ.get(ADDRESS_VARIABLE, ""))


def make_ray_executor(worker: PartWorker, note: Note) -> Executor:
    """Encodes on the Ray cluster at RAY_ADDRESS, or else the one that runs on this machine."""
    return RayExecutor(worker, note)


@dataclass(frozen=True)
class RayExecutor:
    """A running Ray cluster: a task for each part. It needs no storage but the sources where every node reads them."""

    worker: PartWorker
    """Its encoder's inputs and engine go to the nodes; it keeps what comes back."""

    note: Note

    def run(self, tasks: Iterable[PartTask], num_tasks: int, on_rows: OnRows) -> Iterator[PartReport]:
        """A report for each task, in their order. Raises Unavailable where the cluster does not do it."""
        if not num_tasks:
            return
        inputs = self.worker.encoder.inputs
        with _connected(inputs) as ray:
            run = _Run(ray, Job.of(inputs, self.worker.engine))
            self.note(f"dataset: Ray cluster of {run.describe()}")
            reports: dict[int, PartReport] = {}
            number = 0
            with closing(run.answers(tasks)) as answers:
                for done, task, answer in answers:
                    assert answer.encoded is not None, "an answer without tokens was raised"
                    reports[done] = self.worker.keep(task, answer.encoded)
                    on_rows(task.num_wanted, answer.encoded.num_tokens)
                    while number in reports:
                        yield reports.pop(number)
                        number += 1
            self.note(f"dataset: encoded by Ray: {_describe_shares(run.parts_by_node)}")


@dataclass
class _Run:
    """One preparation on the cluster."""

    ray: Any
    job: Job
    parts_by_node: Counter[str] = field(default_factory=Counter)
    _cpus: int = 0
    _counted_at: float = float("-inf")

    def describe(self) -> str:
        """`2 nodes, 16 CPUs`."""
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        return f"{nodes} {'node' if nodes == 1 else 'nodes'}, {self._count_cpus()} CPUs"

    def answers(self, tasks: Iterable[PartTask]) -> Generator[tuple[int, PartTask, Answer], None, None]:
        """Each task with its number and its answer, as they are done. What is under way ends with this."""
        options = {"num_cpus": 1, "max_retries": MOST_RETRIES, "scheduling_strategy": "SPREAD"}
        encode = self.ray.remote(**options)(_make_remote_function())
        shared = self.ray.put(pickle.dumps(self.job))
        name, archive = os.urandom(8).hex(), _archive()
        waiting, pending = enumerate(tasks), dict[Any, tuple[int, PartTask]]()
        try:
            while True:
                room = max(0, PARTS_PER_CPU * self._count_cpus() - len(pending))  # none where nodes have left
                for number, task in islice(waiting, room):
                    # Pickled by hand, and the job in a list: the node can read neither before it has our code.
                    reference = encode.remote(name, [shared], pickle.dumps(task), archive and archive.name)
                    pending[reference] = number, task
                if not pending:
                    return
                (done,), _ = self.ray.wait(list(pending), num_returns=1)
                number, task = pending.pop(done)
                answer = self._get(done, task)
                self.parts_by_node[answer.node] += 1
                del done  # lets the cluster forget the tokens
                yield number, task, answer
        finally:
            for reference in pending:
                self.ray.cancel(reference, force=True)

    def _get(self, reference: Any, task: PartTask) -> Answer:
        """The answer. Raises the error that it is; a bug of ours with its traceback."""
        errors = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except errors.RayTaskError:
            raise
        except errors.RuntimeEnvSetupError as error:
            raise Unavailable(
                f"dataset: Ray cannot bring our code to its nodes: {_first_lines(error)}", _KEPT
            ) from None
        except errors.OutOfMemoryError as error:
            raise Unavailable(
                f"dataset: a node of the Ray cluster is out of memory: {_first_lines(error)}", _KEPT
            ) from None
        except errors.RayError as error:
            what = f"dataset: {task.name} was lost on the Ray cluster, {MOST_RETRIES + 1} times"
            raise Unavailable(f"{what}: {type(error).__name__}: {_first_lines(error)}", _KEPT) from None
        if isinstance(answer, str):
            raise Unavailable(f"dataset: {answer}", "every node needs the packages of the dataset-cacher")
        assert isinstance(answer, Answer)
        if answer.error is not None:
            raise answer.error
        return answer

    def _count_cpus(self) -> int:
        now = time.monotonic()
        if now - self._counted_at >= _COUNT_SECONDS:
            self._cpus = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
            self._counted_at = now
        return self._cpus


def _make_remote_function() -> Callable[[str, list[Any], bytes, str | None], Any]:
    """What Ray calls on a node. A function within a function travels by value: it can run before our code is there."""

    def tunewright_encode(run: str, shared: list[Any], task: bytes, archive: str | None) -> Any:
        import os
        import pickle
        import socket
        import sys

        import ray  # pants: no-infer-dep

        node = f"{socket.gethostname()} {ray.get_runtime_context().get_node_id()[:6]}"
        try:
            if archive is not None and "__pex__" not in sys.modules:
                import importlib

                folder = next(iter(importlib.import_module("tunewright_pex").__path__))
                sys.path.insert(0, os.path.join(folder, archive))
                importlib.import_module("__pex__")  # puts what is packed onto the path
            from tunewright.dataset_cacher.preparation import ray_worker
        except ImportError as error:
            return f"node {node} cannot run our code: {error}"
        return ray_worker.answer(run, lambda: pickle.loads(ray.get(shared[0])), pickle.loads(task), node)

    return tunewright_encode


@contextmanager
def _connected(inputs: Inputs) -> Iterator[Any]:
    """Ray's module, connected to a cluster whose nodes get our code."""
    ray = _import_ray()
    address = os.environ.get(ADDRESS_VARIABLE) or "auto"
    _check_listens(address)
    with tempfile.TemporaryDirectory(prefix="tunewright-ray-") as directory, open(os.devnull, "w") as nowhere:
        environment = _runtime_environment(inputs, Path(directory))
        # Ray prints what it thinks of its nodes to stdout, which is for data.
        with redirect_stdout(nowhere):
            try:
                _connect(ray, address, environment)
                yield ray
            finally:
                ray.shutdown()


def _connect(ray: Any, address: str, environment: dict[str, Any]) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:  # not found, of other versions, no address
        hint = "`ray start --head` starts a cluster, RAY_ADDRESS=HOST:PORT names one"
        raise Unavailable(f"dataset: no Ray cluster at `{address}`: {_first_lines(error)}", hint) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own in place


def _import_ray() -> Any:
    # A FutureWarning about GPUs that we do not ask for.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray  # pants: no-infer-dep  # users add it: 200 MB that few need
        import ray.exceptions  # pants: no-infer-dep
    except ImportError as error:
        message = f"--executor ray needs the package ray, of the cluster's version: {error}"
        if os.environ.get("PEX"):
            hint = "pip install --target DIRECTORY ray, then set PEX_EXTRA_SYS_PATH=DIRECTORY"
        else:
            hint = "pip install ray"
        raise Unavailable(message, hint) from None
    return ray


def _check_listens(address: str) -> None:
    """Ray itself would try for a minute, and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        hint = "is the cluster running? `ray start --head` starts one"
        raise Unavailable(f"dataset: no Ray cluster at {ADDRESS_VARIABLE}={address}: {error}", hint) from None


def _runtime_environment(inputs: Inputs, directory: Path) -> dict[str, Any]:
    """Ray's description of what a process on a node has: our code, as it is here, and one core."""
    modules = sorted({str(path) for name in _packages(inputs) for path in _folders_of(name)})
    archive = _archive()
    if archive is not None:
        (directory / _PEX_PACKAGE).mkdir()
        (directory / _PEX_PACKAGE / archive.name).symlink_to(archive)
        modules = [str(directory / _PEX_PACKAGE), *modules]
    variables = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", FAST_THREADS_VARIABLE: "1"}
    return {"py_modules": modules, "excludes": ["__pycache__"], "env_vars": variables}


def _archive() -> Path | None:
    """The packaged program, where this is one: it holds all packages."""
    # The variable may be another program's, which started this one.
    is_packaged = "PEX" in os.environ and Path(__file__).is_relative_to(sys.prefix)
    return Path(os.environ["PEX"]).resolve() if is_packaged else None


def _packages(inputs: Inputs) -> set[str]:
    """Ours, and those of the plugins that read rows."""
    return {"tunewright", *(source.format.entry.partition(":")[0].partition(".")[0] for source in inputs.sources)}


def _folders_of(package: str) -> list[str]:
    """Where a package lies: ours may be in several folders, a module is a file."""
    spec = find_spec(package)
    if spec is None:
        return []
    return list(spec.submodule_search_locations or filter(None, [spec.origin]))


def _describe_shares(parts_by_node: Counter[str]) -> str:
    shares = [f"{number} parts on {node}" for node, number in parts_by_node.most_common(_SHOWN_NODES)]
    more = len(parts_by_node) - len(shares)
    return ", ".join(shares) + (f", the others on {more} more nodes" if more > 0 else "")


def _first_lines(error: Exception) -> str:
    """What Ray says first: the rest is advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
