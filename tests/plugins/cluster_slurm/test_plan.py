"""The plan of a job on Slurm: one script, what is in it and what never is. Needs no Slurm."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tunewright.clusters.slurm.backend import SlurmCluster
from tunewright.clusters.slurm.options import SlurmOptions
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.jobs import JobSpec, ModelReference, Resources, SubmissionPlan

AWKWARD = (
    "",
    'it\'s "so"',
    "$$ ${x}",
    "$(echo no)",
    "a\nEND_OF_JOBS\nb",
    "é🎉",
    "\x01",
    "\\",
    "\udc80",
    "#SBATCH --wrap",
)


def job(**fields: Any) -> JobSpec:
    return JobSpec(**{"run": "r", "run_dir": "/home/runs/r", "command": ("train", "x y"), **fields})


def plan(one: JobSpec, **options: Any) -> SubmissionPlan:
    return SlurmCluster().plan(one, SlurmOptions(**options))


def script(one: JobSpec, **options: Any) -> str:
    return plan(one, **options).text_of("job.sbatch")


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def for_nodes(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text.partition("\nEND_OF_PROGRAM\n")[2].removesuffix("END_OF_JOBS\n"))
    return document


def problems(one: JobSpec, **options: Any) -> list[str]:
    with pytest.raises(InvalidExperiment) as caught:
        plan(one, **options)
    return [problem.path for problem in caught.value.problems]


def test_the_first_lines_say_all_that_slurm_needs_to_know() -> None:
    text = script(
        job(resources=Resources(nodes=2), max_retries=1), partition="gpu", account="a", qos="q", constraint="x&y",
        gpus_per_node=4, gres="gpu:a100:4", cpus_per_task=8, memory_gib=1.5, time_limit_minutes=90, exclusive=True,
        nodelist="n[1-2]", exclude="n3", reservation="r", signal_before_end_seconds=120, sbatch=("--mail-user=a b",),
    )  # fmt: skip
    assert directives(text) == [
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--export=ALL", "--open-mode=append", "--requeue",
        "--output=batch.log",
        "--partition=gpu", "--account=a", "--qos=q", '"--constraint=x&y"', "--gpus-per-node=4",
        "--gres=gpu:a100:4", "--cpus-per-task=8", "--time=90", "--nodelist=n[1-2]", "--exclude=n3", "--reservation=r",
        "--exclusive", "--mem=1536M", "--signal=USR1@120", '"--mail-user=a b"',
    ]  # fmt: skip


def test_without_retries_slurm_does_not_requeue_unless_it_is_asked_to() -> None:
    assert "--no-requeue" in directives(script(job()))
    assert "--requeue" in directives(script(job(max_retries=1)))
    assert "--requeue" in directives(script(job(), requeue=True))
    assert "--no-requeue" in directives(script(job(max_retries=1), requeue=False))


def test_the_shell_hands_arguments_and_variables_on_as_they_are(tmp_path: Path) -> None:
    given = {f"V{number}": value for number, value in enumerate(AWKWARD)}
    text = script(job(command=("train", *AWKWARD), variables=given))
    assert text.isascii()
    start, _, rest = text.partition("<<'END_OF_PROGRAM'")
    _, _, jobs = rest.partition("END_OF_PROGRAM\n")
    show = "import os, sys; sys.stdout.buffer.write(os.fdopen(4, 'rb').read())\n"
    file = tmp_path / "script"
    file.write_text(f"{start}<<'END_OF_PROGRAM' 4<<'END_OF_JOBS'\n{show}END_OF_PROGRAM\n{jobs}")
    told = json.loads(subprocess.run(["sh", str(file), "key"], capture_output=True, check=True).stdout)
    assert told["jobs"][0]["command"] == ["train", *AWKWARD]
    assert told["variables"] == given


def test_an_array_says_once_what_its_jobs_share() -> None:
    jobs = [job(run_dir=f"/home/runs/{number}", variables={"A": "same", "B": str(number)}) for number in range(3)]
    planned = SlurmCluster().plan_array(jobs, SlurmOptions(), 2)
    text = planned.text_of("job.sbatch")
    assert "--array=0-2%2" in directives(text)
    assert for_nodes(text)["variables"] == {"A": "same"}
    assert [one["variables"] for one in for_nodes(text)["jobs"]] == [{"B": "0"}, {"B": "1"}, {"B": "2"}]
    unbounded = SlurmCluster().plan_array(jobs, SlurmOptions(), None)
    assert "--array=0-2" in directives(unbounded.text_of("job.sbatch"))


def test_a_thousand_points_are_planned_in_a_fifth_of_a_second() -> None:
    jobs = [job(run_dir=f"/home/runs/{number}", variables={"A": "same", "B": str(number)}) for number in range(1000)]
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        planned = SlurmCluster().plan_array(jobs, SlurmOptions(), 8)
        best = min(best, time.process_time() - started)
    assert best < 0.2
    assert len(planned.text_of("job.sbatch")) < 1 << 20  # Slurm takes 4 MiB


def test_secrets_are_named_for_the_submission_and_for_the_nodes_only_by_their_variables() -> None:
    planned = plan(job(secrets={"TOKEN": "my-token"}))
    assert "my-token" not in planned.text_of("job.sbatch")
    assert json.loads(planned.text_of("slurm.json"))["secrets"] == {"TOKEN": "my-token"}


def test_pyxis_gets_its_container_through_srun_with_all_that_the_job_reads() -> None:
    whole = job(dataset=CachedDataset(digest="d", path="/cache/d"), model=ModelReference(name_or_path="/models/tiny"))
    told = for_nodes(script(whole, container="pyxis", container_image="a#b:c", container_mounts=("/x:/y:ro",)))
    assert told["srun"] == [
        "--container-image=a#b:c",
        "--container-mounts=/home/runs/r:/home/runs/r,/cache/d:/cache/d,/models/tiny:/models/tiny,/x:/y:ro",
        "--no-container-mount-home",
    ]
    assert told["jobs"][0]["command"] == ["train", "x y"]


def test_apptainer_stands_before_the_command_and_hands_nothing_on_by_itself() -> None:
    told = for_nodes(script(job(), container="apptainer", container_image="/s/image.sif", gpus_per_node=1))
    assert told["jobs"][0]["command"] == [
        "apptainer", "exec", "--cleanenv", "--pwd=/home/runs/r", "--nv", "--bind=/home/runs/r:/home/runs/r",
        "/s/image.sif", "train", "x y",
    ]  # fmt: skip
    assert told["container"] == "apptainer"


def test_what_slurm_cannot_do_is_refused_all_at_once() -> None:
    bad = job(command=("a\0",), variables={"A": "\0", "B=C": "", "TUNEWRIGHT_ATTEMPT": "1"}, secrets={"A": "x"})
    assert problems(bad) == [
        "command[0]", "cluster.environment.A", "cluster.environment", "cluster.environment.TUNEWRIGHT_ATTEMPT",
        "cluster.secrets.A",
    ]  # fmt: skip


@pytest.mark.parametrize("run_dir", ["/home/50%j", "/home/a\\b"])
def test_directories_that_slurm_would_read_as_patterns_are_refused(run_dir: str) -> None:
    assert problems(job(run_dir=run_dir)) == ["TUNEWRIGHT_HOME"]


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("cluster.options.sbatch[0]", {"sbatch": ("--nodes=3",)}),
        ("cluster.options.sbatch[1]", {"sbatch": ("--mail-type=END", "-p x")}),
        ("cluster.options.srun[0]", {"srun": ("network",)}),
        ("cluster.options.signal_before_end_seconds", {"signal_before_end_seconds": 5}),
        ("cluster.options.ssh_options", {"ssh_options": ("-v",)}),
        ("cluster.options.container_image", {"container": "pyxis"}),
        ("cluster.options.container_image", {"container_image": "x"}),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_name(path: str, options: dict[str, Any]) -> None:
    assert problems(job(), **options) == [path]


def test_no_option_can_make_a_second_line_of_the_script() -> None:
    for options in ({"partition": "a\n#SBATCH --wrap=x"}, {"sbatch": ("--a\nb",)}, {"ssh_host": "-oProxyCommand=x"}):
        with pytest.raises(ValueError, match="pattern"):
            SlurmOptions(**options)
