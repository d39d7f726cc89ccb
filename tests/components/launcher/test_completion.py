"""Completion, as bash asks for it: click's protocol, driven through the variables that the shell sets."""

from __future__ import annotations

import pytest

from components.launcher.project import Project


def completions(project: Project, monkeypatch: pytest.MonkeyPatch, words: str) -> list[str]:
    """What bash would offer behind `launcher WORDS`: a last space begins a new word."""
    line = f"launcher {words}"
    monkeypatch.setenv("_LAUNCHER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    out = project.launcher().out
    monkeypatch.delenv("_LAUNCHER_COMPLETE")
    return [line.partition(",")[2] for line in out.splitlines() if line]


def test_bash_is_told_commands_experiments_runs_and_clusters(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.launcher("launch", "count.toml", "--name", "my-run")
    project.launcher("sweep", "count.toml", "--grid", "seed=1,2", "--name", "many")
    config = project.root.parent / "config" / "tunewright" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[profiles.yellow]\nname = "yard"\n')
    (project.root / "other.toml").write_text("[tool.other]\n")
    (project.root / "below").mkdir()
    (project.root / "below" / "deep.toml").write_text((project.root / "count.toml").read_text())

    def ask(words: str) -> list[str]:
        return completions(project, monkeypatch, words)

    assert ask("ver") == ["verify"]
    assert ask("launch ") == ["below/deep.toml", "count.toml"]
    assert ask("launch be") == ["below/deep.toml"]
    assert ask("plan count.toml --cluster y") == ["yard", "yellow"]
    assert ask("plan count.toml --diff my") == ask("status my") == ask("verify my") == ask("reproduce my") == ["my-run"]
    assert ask("status ma") == ask("wait ma") == ask("stop ma") == ["many", "many-1", "many-2"]
    assert ask("logs ma") == ["many-1", "many-2"]
    assert "--cluster" in ask("reproduce --")


def test_set_offers_whole_paths_and_the_values_of_fields_that_have_few(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(words: str) -> list[str]:
        return completions(project, monkeypatch, f"launch count.toml --set {words}")

    assert ask("training.learning_ra") == ["training.learning_rate="]
    assert {"dataset.mix.0.source=", "dataset.packing=", "cluster.environment."} <= set(ask(""))
    assert not [path for path in ask("dataset.") if path.startswith("dataset.mix.1")], "the file has one source"
    assert set(ask("cluster.options.")) == {"cluster.options.gate=", "cluster.options.colour="}
    assert "training.options.pause_seconds=" in ask("training.options.")
    # Here as zsh and fish ask: bash takes `=` for the end of a word, and asks for no value.
    assert ask("training.strategy=dd") == ["training.strategy=ddp"]
    assert ask("dataset.packing=") == ["dataset.packing=true", "dataset.packing=false"]
    assert ask("training.learning_rate=") == []


def test_a_broken_configuration_or_experiment_completes_without_a_word(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CONFIG", str(project.root / "count.toml"))
    assert "yard" in completions(project, monkeypatch, "plan count.toml --cluster y")
    assert completions(project, monkeypatch, "plan none.toml --set seed") == ["seed="]
