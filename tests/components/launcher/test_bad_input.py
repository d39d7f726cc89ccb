"""Every bad input ends with one message, its promised exit code, no traceback, and nothing half-made."""

from __future__ import annotations

import pytest

from components.launcher.project import Project


@pytest.mark.parametrize(
    ("assignment", "code", "words"),
    [
        ("training.learning_rat=1e-4", 78, ["training.learning_rat: unknown key", "did you mean `learning_rate`?"]),
        ("dataset.max_length_tokens=many", 78, ["dataset.max_length_tokens", "valid integer", "'many'"]),
        ("cluster.name=yrad", 78, ["cluster.name: unknown cluster `yrad`", "installed:", "did you mean `yard`?"]),
        ("training.variant=plian", 78, ["training.variant: unknown variant `plian`", "did you mean `plain`?"]),
        ("cluster.options.gaet=1", 78, ["cluster.options.gaet: unknown key", "did you mean `gate`?"]),
        ("training.options.exit_code=much", 78, ["training.options.exit_code", "valid integer", "'much'"]),
        ("training.learning_rate=-1", 78, ["training.learning_rate: must be above 0", "got -1"]),
        ("dataset.mix.0.fraction=0", 78, ["dataset.mix[0].fraction: must be above 0", "got 0"]),
        ("dataset.mix.0.fraction=-0.5", 78, ["dataset.mix[0].fraction", "got -0.5"]),
        ("dataset.mix=[]", 78, ["dataset.mix", "at least 1"]),
        ("cluster.nodes=0", 78, ["cluster.nodes: must be at least 1, got 0"]),
        ("cluster.nodes=2", 77, ["cluster.nodes: is 2", "`yard` runs jobs on one node", "cluster-without-multinode"]),
        ("cluster.max_retries=1", 77, ["cluster.max_retries: is 1", "cluster-without-retries"]),
        ('cluster.secrets={TOKEN="hub"}', 77, ["cluster.secrets: is TOKEN", "cluster-without-secrets"]),
        ('environment={kind="image", image="images/x"}', 77, ["environment.kind: is image", "cluster-without-images"]),
        ("training.strategy=fsdp2", 77, ["training.strategy: is `fsdp2`", "`ddp`", "strategy-not-available",
                                         "one counter cannot be cut"]),
        ("dataset.mix.0.format=preference", 77, ["dataset.mix[0].format: is `preference`", "format-not-trained-on"]),
        ('tracking.to=["mlflow"]', 77, ["tracking.to: has `mlflow`", "MLFLOW_TRACKING_URI",
                                        "tracking-without-address"]),
        ("tracking.registered_model=ours", 77, ["tracking.registered_model: is ours", "registry-without-mlflow"]),
        ("name=unlucky", 77, ["name: is unlucky", "unlucky-name", "choose another"]),
        ("model.name_or_path=./nowhere", 66, ["model.name_or_path", "nowhere"]),
        ("model.name_or_path=run:never", 66, ["model.name_or_path", "run `never` has left no model"]),
        ("model.name_or_path=some/hub-id", 78, ["model.revision", "40 hexadecimal digits"]),
        ("dataset.mix.0.source=rwos.jsonl", 66, ["dataset.mix[0].source", "rwos.jsonl"]),
        ("no-equals-sign", 64, ["--set no-equals-sign", "`=`", "for example"]),
        ("=1", 64, ["--set =1", "no path"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["launch", "plan"])
def test_a_wrong_value_is_named_with_what_is_allowed(
    command: str, assignment: str, code: int, words: list[str], project: Project
) -> None:
    before = project.entries()
    answer = project.launcher(command, "count.toml", "--set", assignment, expect=code)
    assert [word for word in words if word not in answer.err] == [], answer.err
    assert "Traceback" not in answer.err and answer.out == ""
    assert project.entries() == before


def test_all_faults_are_told_at_once_those_of_the_plugins_too(project: Project) -> None:
    wrong = ("cluster.nodes=0", "training.learning_rate=-1", "cluster.options.gaet=x", "training.options.mode=3")
    answer = project.launcher("launch", "count.toml", *(part for one in wrong for part in ("--set", one)), expect=78)
    paths = ("cluster.nodes", "training.learning_rate", "cluster.options.gaet", "training.options.mode")
    assert [path for path in paths if path not in answer.err] == []
    assert "4 problems" in answer.err and answer.err.count("error:") == 1


def test_unknown_cluster_and_unknown_variant_are_told_together(project: Project) -> None:
    answer = project.launcher("launch", "count.toml", "--cluster", 'a"b', "--set", "training.variant=none", expect=78)
    assert 'cluster.name: unknown cluster `a"b`' in answer.err and "training.variant" in answer.err


def test_all_findings_are_told_at_once(project: Project) -> None:
    (project.root / "stray").touch()
    answer = project.launcher("launch", "count.toml", "--set", "cluster.nodes=2", "--set", "name=unlucky", expect=77)
    assert all(code in answer.err for code in ("git-tree-dirty", "cluster-without-multinode", "unlucky-name"))


def test_a_file_that_is_no_experiment_is_said_to_be_none(project: Project) -> None:
    (project.root / "bad.toml").write_text("name = \n")
    assert "bad.toml: is not TOML" in project.launcher("launch", "bad.toml", expect=78).err
    (project.root / "empty.toml").write_text("")
    answer = project.launcher("launch", "empty.toml", expect=78)
    assert all(f"{path}: is missing" in answer.err for path in ("name", "model", "dataset"))
    assert "cannot be read" in project.launcher("launch", "model", expect=78).err
    assert "did you mean `count.toml`?" in project.launcher("launch", "cuont.toml", expect=66).err


def test_a_wrong_command_line_ends_64(project: Project) -> None:
    assert "no such command `lunch`" in project.launcher("lunch", expect=64).err
    assert "Missing argument 'EXPERIMENT'" in project.launcher("launch", expect=64).err
    assert "No such option" in project.launcher("launch", "count.toml", "--clutser", "yard", expect=64).err
    assert "no name for a run" in project.launcher("launch", "count.toml", "--name", "../up", expect=64).err
    assert "--replica" in project.launcher("logs", "count", "--replica", "-1", expect=64).err


@pytest.mark.parametrize("command", ["status", "wait", "logs", "stop", "events"])
def test_an_unknown_run_ends_66_with_close_names(command: str, project: Project) -> None:
    assert "no run `count`" in project.launcher(command, "count", expect=66).err
    (project.run("count")).mkdir(parents=True)
    (project.run("count") / "job.json").write_text("{}")
    assert "did you mean `count`?" in project.launcher(command, "cuont", expect=66).err
    for name in ("", ".", "..", "a/b"):
        project.launcher(command, name, expect=66)


def test_a_directory_in_the_way_of_a_name_is_said_to_be_no_run(project: Project) -> None:
    project.run("taken").mkdir(parents=True)
    (project.run("taken") / "file").touch()
    assert "it is no run" in project.launcher("launch", "count.toml", "--name", "taken", expect=64).err


def test_a_run_with_broken_files_is_named_and_does_not_hide_the_others(project: Project) -> None:
    project.launcher("launch", "count.toml")
    project.launcher("launch", "count.toml")
    (project.run("count") / "handle.json").write_text('{"cluster": 3}')
    assert "handle.json: is not a job's handle" in project.launcher("status", "count", expect=65).err
    rows = {row["run"]: row["state"] for row in project.launcher("list", "--json").document}
    assert rows == {"count": "UNKNOWN", "count-2": "SUCCEEDED"}
    (project.run("count") / "job.json").write_text("{}")
    assert "job.json: is not a job" in project.launcher("status", "count", expect=65).err
    assert "job.json: is not a job" in project.launcher("logs", "count", expect=65).err
