"""What `trainer estimate` says before a training, against the memory that the training then took."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, run_trainer
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.estimating.estimate import memory_of
from tunewright.trainer.estimating.live_memory import LiveMemory
from tunewright.trainer.estimating.rehearsal import Rehearsal

pytestmark = pytest.mark.timeout(300)

QUICKSTART = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 8,
}  # fmt: skip
"""examples/models/tiny."""

HUNDRED_MILLION = {
    "vocab_size": 8192, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 13,
    "num_attention_heads": 12, "num_key_value_heads": 6,
}  # fmt: skip


def make(root: Path, model: dict[str, Any], variant: str, **training: Any) -> Path:
    """A job of two steps on conversations of up to 256 tokens."""
    cache = make_cache(root / "cache", make_conversations(8, longest=256))
    directory = make_model(root / "model", max_position_embeddings=1024, **model)
    return make_job(
        root, directory, cache, variant=variant, max_steps=2, batch_size=1, micro_batch_size=1,
        tables={"dataset": {"max_length_tokens": 256, "mix": [{"source": "tiny.jsonl"}]}}, **training,
    )  # fmt: skip


RunTrainer = Callable[..., str]


def run_anew(*arguments: str | Path) -> str:
    """What the command line says, started as users start it."""
    result = run_trainer(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run_forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunTrainer]:
    """The same, in a process of its own that has torch and transformers from the start, and nothing of the tests'.

    Those two every training imports. All else is imported, and all memory taken, as by one that is started anew.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_fork_each, args=(theirs,))
    process.start()
    theirs.close()
    log = tmp_path_factory.mktemp("forked") / "said.txt"

    def run(*arguments: str | Path) -> str:
        ours.send(([*map(str, arguments)], log))
        assert ours.recv() == 0, log.read_text()
        return log.read_text()

    yield run
    ours.close()
    process.join()


def _fork_each(pipe: Any) -> None:
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    import transformers.models.llama.modeling_llama  # noqa: F401

    while True:
        try:
            arguments, log = pipe.recv()
        except EOFError:
            return
        process = multiprocessing.get_context("fork").Process(target=_run_command, args=(arguments, log))
        process.start()
        process.join()
        pipe.send(process.exitcode)


def _run_command(arguments: list[str], log: Path) -> None:
    from tunewright.contracts.command_line import run_command_line
    from tunewright.trainer.cli import trainer

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
    run_command_line(trainer, "trainer", arguments)


def estimated(subject: Path, run: RunTrainer = run_anew) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("estimate", subject, "--json"))
    return document


SLOW = pytest.mark.skipif(
    "TUNEWRIGHT_SLOW_TESTS" not in os.environ, reason="trains 100 M parameters: set TUNEWRIGHT_SLOW_TESTS to run it"
)


@pytest.mark.parametrize("model", [QUICKSTART, pytest.param(HUNDRED_MILLION, marks=SLOW)], ids=["quickstart", "100M"])
def test_the_estimate_is_within_a_fifth_of_what_happened(tmp_path: Path, model: dict[str, Any]) -> None:
    check_estimate(make(tmp_path, model, "full"), run_anew)


@pytest.mark.parametrize("variant", ["lora", "qlora"])
@pytest.mark.parametrize("model", [QUICKSTART, pytest.param(HUNDRED_MILLION, marks=SLOW)], ids=["quickstart", "100M"])
def test_the_estimate_of_adapters_is_within_a_fifth_of_what_happened(
    tmp_path: Path, model: dict[str, Any], variant: str, run_forked: RunTrainer
) -> None:
    check_estimate(make(tmp_path, model, variant), run_forked)


def check_estimate(job: Path, run: RunTrainer) -> None:
    """Train `job`, and compare the memory it took with what is estimated of it."""
    run("train", job)
    document = estimated(job, run)
    ratio = document["memory"]["peak_bytes"] / document["happened"]["peak_memory_bytes"]
    print(f"estimated {document['memory']}, happened {document['happened']}: {ratio:.3f}")
    assert 0.8 <= ratio <= 1.2


def test_an_experiment_is_estimated_before_anything_is_prepared_and_nothing_is_written(
    tmp_path: Path, run_forked: RunTrainer
) -> None:
    experiment = tmp_path / "experiment.toml"
    model = make_model(tmp_path / "model", **QUICKSTART)
    experiment.write_text(
        f'schema = 1\nname = "later"\n[model]\nname_or_path = "{model}"\nweights = "random"\n'
        '[dataset]\nmax_length_tokens = 64\n[[dataset.mix]]\nsource = "not-there-yet.jsonl"\n'
        '[training]\nvariant = "lora"\nbatch_size = 4\nmicro_batch_size = 2\nmax_steps = 3\n'
    )
    before = sorted(tmp_path.rglob("*"))
    document = estimated(experiment, run_forked)
    assert sorted(tmp_path.rglob("*")) == before
    assert document["step_tokens"] == 4 * 64
    assert document["num_trained"] < document["num_parameters"]
    assert document["seconds"] > 0
    assert document["happened"] == {}


def rehearsal(**changes: Any) -> Rehearsal:
    return Rehearsal(
        **{
            "num_parameters": 1000, "num_trained": 1000, "weights_bytes": 4000, "read_bytes": 0,
            "frozen_matrix_bytes": 0, "activations_bytes": 600, "num_matrices_trained": 900, "pass_flops": 1,
            "pass_tokens": 1, **changes,
        }
    )  # fmt: skip


def spec(processes: int = 1, **training: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "name": "x",
            "model": {"name_or_path": "m"},
            "dataset": {"mix": [{"source": "d.jsonl"}]},
            "training": training,
            "cluster": {"processes_per_node": processes},
        }
    )


@pytest.mark.parametrize(
    ("training", "processes", "expected"),
    [
        ({}, 1, {"weights_bytes": 4000, "gradients_bytes": 4000, "optimizer_bytes": 8000}),
        ({"optimizer": "muon"}, 1, {"optimizer_bytes": 4 * 900 + 8 * 100}),
        ({"optimizer": "adamw_8bit"}, 1, {"optimizer_bytes": 2100}),
        ({}, 2, {"weights_bytes": 4000, "gradients_bytes": 8000, "optimizer_bytes": 8000}),
        ({"strategy": "deepspeed_zero2"}, 2, {"weights_bytes": 4000, "gradients_bytes": 2000, "optimizer_bytes": 6000}),
        ({"strategy": "fsdp2"}, 4, {"weights_bytes": 1000, "gradients_bytes": 1000, "optimizer_bytes": 2000}),
    ],
)
def test_strategies_and_optimizers_divide_memory_as_their_papers_say(
    training: dict[str, Any], processes: int, expected: dict[str, int]
) -> None:
    memory = memory_of(rehearsal(), spec(processes, batch_size=4, **training), process_bytes=100)
    assert {name: getattr(memory, name) for name in expected} == expected


def test_the_peak_is_in_a_step_or_while_saving_whichever_is_more() -> None:
    in_a_step = memory_of(rehearsal(), spec(), process_bytes=0)
    assert in_a_step.peak_bytes == 4000 + 8000 + 4000 + 600
    assert in_a_step.saving_bytes == 4000


def test_a_model_that_is_compressed_is_read_whole_first() -> None:
    loading = memory_of(rehearsal(num_trained=10, weights_bytes=600, read_bytes=4000), spec(), process_bytes=0)
    assert loading.peak_bytes == 600 + 2 * 4000


def test_live_memory_counts_what_is_held_and_forgets_what_is_let_go() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), LiveMemory() as memory:
        held = torch.empty(1000)
        view = held[:10]
        gone = held + 1
        del gone
        assert memory.live_bytes == 4000
        assert memory.peak_bytes == 8000
        assert view.shape == (10,)
