"""On a Ray cluster: the bytes that one machine makes, whatever happens to its processes, or clear words."""

from __future__ import annotations

import os
import pickle
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from servers.programs import free_port
from servers.ray_cluster import RayCluster, serve_ray

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.datasets import DatasetRequest
from tunewright.contracts.errors import InvalidDataset, Problem, Unavailable
from tunewright.contracts.plugins import PluginHost
from tunewright.dataset_cacher.inputs import find_inputs
from tunewright.dataset_cacher.preparation import ray_executor, ray_worker
from tunewright.dataset_cacher.preparation.parts import PartTask
from tunewright.dataset_cacher.provide import Means, provide_dataset
from tunewright.dataset_cacher.reading import lines
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.tokens.engines import REFERENCE
from tunewright.dataset_cacher.tokens.self_check import EngineDiffers

REMOTE_FUNCTION = "tunewright_encode"
RAY = Means("ray")

ROWS = 3000
PART_BYTES = 1 << 16
"""So that there are some parts for each node."""

WORDS = ("what", "the answer is", "naïve é", "漢字かな", "\n\n", "it is the ", "42")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Two nodes that do not have our code."""
    with serve_ray() as running:
        yield running


@pytest.fixture
def request_of_many_parts(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> DatasetRequest:
    """Conversations of all lengths; some are cut, and of some nothing is left."""
    monkeypatch.setattr(lines, "PART_BYTES", PART_BYTES)
    draw = random.Random(4)
    texts = (" ".join(draw.choices(WORDS, k=int(draw.lognormvariate(3, 0.8)))) for _ in range(2 * ROWS))
    bench.write("rows.jsonl", [conversation(question, next(texts)) for question in texts])
    return bench.request({"source": "rows.jsonl"}, max_length_tokens=128, shuffle=True)


@pytest.fixture
def on_cluster(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """The cluster, named as users name theirs."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return cluster


@pytest.mark.timeout(180)
def test_two_nodes_prepare_the_same_bytes_as_one_machine(
    bench: Workbench, request_of_many_parts: DatasetRequest, on_cluster: RayCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    here = provide_dataset(request_of_many_parts, bench.cache_root)
    there = provide_dataset(request_of_many_parts, bench.project / "by-ray", means=RAY)
    assert not there.is_hit
    assert there.dataset.digest == here.dataset.digest
    assert bytes_below(Path(there.dataset.path)) == bytes_below(Path(here.dataset.path))
    out, err = capfd.readouterr()
    shares = re.findall(r"(\d+) parts on (\S+ \w{6})", err)
    assert len({node for _, node in shares}) == 2, f"not both nodes did some: {err}"
    assert sum(int(num_parts) for num_parts, _ in shares) >= 8
    assert "Ray cluster of 2 nodes, 2 CPUs" in err
    assert out == ""


def test_preference_pairs_come_from_two_nodes_as_from_one_machine(
    bench: Workbench, on_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PART_BYTES", 4096)
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    pairs = [{"prompt": f"{n}? " * 9, "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(400)]
    bench.write("pairs.jsonl", [same if n % 7 == 3 else pair for n, pair in enumerate(pairs)])
    request = bench.request({"source": "pairs.jsonl", "format": "preference"}, shuffle=True)
    here = provide_dataset(request, bench.cache_root)
    there = provide_dataset(request, bench.project / "by-ray", means=RAY)
    assert bytes_below(Path(there.dataset.path)) == bytes_below(Path(here.dataset.path))
    origins = bench.origins(there)
    assert origins[::2] == origins[1::2] and there.dataset.dropped == {"equal_answers": len(range(3, 400, 7))}


@pytest.mark.timeout(180)
def test_a_killed_process_on_a_node_is_survived(
    bench: Workbench, request_of_many_parts: DatasetRequest, on_cluster: RayCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    here = provide_dataset(request_of_many_parts, bench.cache_root)
    killed: list[int] = []
    with _killing(on_cluster, killed):
        there = provide_dataset(request_of_many_parts, bench.project / "by-ray", means=RAY)
    assert killed, "all was done before anything was killed"
    assert bytes_below(Path(there.dataset.path)) == bytes_below(Path(here.dataset.path))
    assert capfd.readouterr().out == "", "what Ray has to say of it does not go among the data"


@pytest.mark.timeout(180)
def test_a_part_that_is_lost_too_often_is_an_error_and_what_is_done_is_kept(
    bench: Workbench, request_of_many_parts: DatasetRequest, on_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "MOST_RETRIES", 0)
    root = bench.project / "by-ray"
    killing = _killing(on_cluster, [], once_there=lambda: any(root.glob(".*.work/*.rows")))
    with killing, pytest.raises(Unavailable, match=r"part-0{5}-0\d+ was lost on the Ray cluster, 1 times") as raised:
        provide_dataset(request_of_many_parts, root, means=RAY)
    assert raised.value.exit_code == 69
    assert list(root.glob(".*.work/*.rows")), "the next one goes on with these"
    assert not ray.is_initialized()
    assert provide_dataset(request_of_many_parts, root).dataset.rows


@pytest.mark.timeout(180)
def test_a_row_that_cannot_be_used_is_named_as_on_one_machine(bench: Workbench, on_cluster: RayCluster) -> None:
    bench.write("bad.jsonl", [conversation("why?", "because"), {"messages": []}])
    bench.experiment(['source = "bad.jsonl"'])
    refused = bench.run_anew("prepare", "experiment.toml", "--executor", "ray", expect=78)
    assert "bad.jsonl:2" in refused.stderr
    assert refused.stdout == ""
    assert not list(bench.cache_root.glob(".*.work"))


def test_no_cluster_at_the_address_is_said_at_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("rows.jsonl", [conversation("why?", "because")])
    bench.experiment(['source = "rows.jsonl"'])
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    refused = bench.run_anew("prepare", "experiment.toml", "--executor", "ray", expect=69)
    assert "no Ray cluster at RAY_ADDRESS=127.0.0.1:" in refused.stderr
    assert time.monotonic() - started < 30


def test_without_ray_it_is_said_how_to_add_it(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("rows.jsonl", [conversation("why?", "because")])
    bench.experiment(['source = "rows.jsonl"'])
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\")")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "absent"), *sys.path])
    monkeypatch.delenv("PEX", raising=False)
    refused = bench.run_anew("prepare", "experiment.toml", "--executor", "ray", expect=69)
    assert "--executor ray needs the package ray" in refused.stderr
    assert "pip install ray" in refused.stderr
    assert bench.run_anew("prepare", "experiment.toml").stdout, "without it, the others do not miss it"


def test_a_node_reads_a_copy_of_a_source_and_refuses_another_file(bench: Workbench, tmp_path: Path) -> None:
    path = bench.write("rows.jsonl", [conversation("why?", f"because {number}") for number in range(5)])
    job, task = _job(bench, "rows.jsonl")
    first = _answer(job, task)
    assert first.error is None and first.encoded is not None and first.encoded.num_tokens > 0
    content, later = path.read_bytes(), time.time() + 1000
    os.utime(path, (later, later))
    again = _answer(job, task)
    assert again.encoded is not None and again.encoded.num_tokens == first.encoded.num_tokens
    path.write_bytes(content.replace(b"because", b"becauze"))
    _assert_unavailable(_answer(job, task), r"rows\.jsonl: is another file .*\(on node some-node\)")
    path.unlink()
    _assert_unavailable(_answer(job, task), r"rows\.jsonl: cannot be read: No such file .*\(on node some-node\)")


def test_a_node_needs_no_model_directory(bench: Workbench, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    bench.write("rows.jsonl", [conversation("why?", "because")])
    job, task = _job(replace(bench, model=copy), "rows.jsonl")
    shutil.rmtree(copy)
    assert _answer(job, task).error is None


def test_a_node_with_another_version_of_what_decides_tokens_is_refused(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("why?", "because")])
    job, task = _job(bench, "rows.jsonl")
    other = replace(job, versions={**job.versions, "jinja2": "0.0.1"})
    _assert_unavailable(_answer(other, task), r"jinja2 decides tokens: 0\.0\.1 is needed .*\(on node some-node\)")


@pytest.mark.parametrize(
    "error",
    [
        EngineDiffers("'text'"),
        InvalidDataset("rows.jsonl: no", "a hint", (Problem("rows.jsonl:1", "no"),)),
        Unavailable("s3://x: no answer", "is the network up?"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_to_the_driver_as_themselves(error: Exception) -> None:
    crossed = pickle.loads(pickle.dumps(ray_worker.Answer("node", error=error)))
    assert type(crossed.error) is type(error)
    assert str(crossed.error) == str(error)
    assert vars(crossed.error) == vars(error)


def _job(bench: Workbench, source: str) -> tuple[ray_worker.Job, PartTask]:
    """A job as the driver makes it, and the task of its only part."""
    memory = DigestMemory(bench.cache_root)
    request = bench.request({"source": source})
    inputs = find_inputs(request, PluginHost.discover(), memory)
    (part,) = memory.scan_of(inputs.sources[0].files[0]).parts
    job: ray_worker.Job = pickle.loads(pickle.dumps(ray_worker.Job.of(inputs, REFERENCE)))
    return job, PartTask(0, 0, 0, part, 0, None)


def _answer(job: ray_worker.Job, task: PartTask) -> ray_worker.Answer:
    """A node's answer: of a process that knows nothing yet."""
    return ray_worker.answer(os.urandom(4).hex(), lambda: job, task, "some-node")


def _assert_unavailable(answer: ray_worker.Answer, pattern: str) -> None:
    assert isinstance(answer.error, Unavailable)
    assert re.search(pattern, answer.error.message), answer.error


class _killing:  # reads as a statement
    """Kills the first process that encodes, once it may, while a block runs."""

    def __init__(self, cluster: RayCluster, killed: list[int], once_there: Callable[[], bool] = lambda: True) -> None:
        self._cluster, self._killed, self._once_there = cluster, killed, once_there
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.01):
            if self._once_there():
                for pid in self._cluster.processes_at(REMOTE_FUNCTION)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    self._killed.append(pid)
                    return
