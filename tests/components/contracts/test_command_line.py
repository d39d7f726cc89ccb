"""What the command lines share: exit codes, one message, no traceback, nothing imported that is not called for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunewright.contracts import command_line

PROGRAM = """
import click, sys
from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

@click.group(cls=LazyGroup, lazy_commands={"greet": ("commands:greet", "Greet."), "fail": ("commands:fail", "Fail."),
                                           "heavy": ("no_such_heavy_module:command", "Do much.")})
@version_option("tunewright-moon")
def moon(): "To the moon."

if __name__ == "__main__":
    run_command_line(moon, "moon")
"""
COMMANDS = """
import click, os, signal
from tunewright.contracts import errors

@click.command()
@click.argument("name")
@click.option("--times", type=int, default=1)
def greet(name, times):
    for _ in range(times):
        click.echo(f"hello {name}")
    return 3 if name == "three" else None

@click.command()
@click.argument("kind")
def fail(kind):
    if kind == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if kind == "bug":
        raise KeyError("a bug of ours")
    raise getattr(errors, kind)("it is wrong", "do this")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "moon.py").write_text(PROGRAM)
    (tmp_path / "commands.py").write_text(COMMANDS)
    info = tmp_path / "tunewright_moon-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tunewright-moon\nVersion: 1.2.3\n")
    (info / "COMMIT").write_text("c0ffee\n")
    return tmp_path / "moon.py"


def call(program: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(program.parent), *sys.path])
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        env={**os.environ, "PYTHONPATH": path, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_data_goes_to_stdout_and_the_commands_number_is_the_exit_code(program: Path) -> None:
    done = call(program, "greet", "you")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello you\n", "")
    assert call(program, "greet", "three").returncode == 3


@pytest.mark.parametrize(
    ("kind", "code"),
    [("UsageError", 64), ("CacheCorrupted", 65), ("NotFound", 66), ("Unavailable", 69), ("RunStopped", 75),
     ("PreflightFailed", 77), ("InvalidExperiment", 78), ("TunewrightError", 70)],
)  # fmt: skip
def test_an_error_of_ours_is_one_message_with_its_code(kind: str, code: int, program: Path) -> None:
    done = call(program, "fail", kind)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "error: it is wrong\nhint: do this\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gret"], ["gret", "greet, fail, heavy", "Did you mean `greet`?"]),
        (["greet"], ["NAME"]),
        (["greet", "you", "--tims", "3"], ["--tims"]),
        (["greet", "you", "--times", "many"], ["many"]),
        (["greet", "you", "me"], ["me"]),
        (["--unknown"], ["--unknown"]),
    ],
)
def test_a_wrong_command_line_ends_with_64_and_says_why(arguments: list[str], words: list[str], program: Path) -> None:
    done = call(program, *arguments)
    assert done.returncode == 64
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130(program: Path) -> None:
    done = call(program, "fail", "interrupt")
    assert (done.returncode, done.stderr.strip()) == (command_line.EXIT_INTERRUPTED, "interrupted")
    assert command_line.EXIT_INTERRUPTED == 130


def test_a_bug_of_ours_keeps_its_traceback(program: Path) -> None:
    done = call(program, "fail", "bug")
    assert done.returncode == 1
    assert "KeyError: 'a bug of ours'" in done.stderr


def test_help_lists_all_commands_and_imports_none(program: Path) -> None:
    done = call(program, "--help")
    assert done.returncode == 0
    assert [line for line in ("greet  Greet.", "fail   Fail.", "heavy  Do much.") if line not in done.stdout] == []


def test_version_tells_the_components_own_version_and_commit(program: Path) -> None:
    assert call(program, "--version").stdout == "tunewright-moon 1.2.3 (commit c0ffee)\n"
    assert "c0ffee" in call(program, "--version", TUNEWRIGHT_RUN_COMMIT="another").stdout


def test_a_program_that_carries_no_commit_believes_the_one_that_pants_run_tells(program: Path) -> None:
    (program.parent / "tunewright_moon-1.2.3.dist-info" / "COMMIT").unlink()
    told = call(program, "--version", TUNEWRIGHT_RUN_COMMIT="decade")
    assert told.stdout == "tunewright-moon 1.2.3 (commit decade)\n"
    assert call(program, "--version", TUNEWRIGHT_RUN_COMMIT="").stdout == "tunewright-moon 1.2.3 (commit unknown)\n"


def test_a_reader_that_goes_away_is_no_error(program: Path) -> None:
    path = os.pathsep.join([str(program.parent), *sys.path])
    with subprocess.Popen(
        [sys.executable, str(program), "greet", "you", "--times", "100000"],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "hello you\n"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(20) == 0, errors
    assert errors == ""


def test_the_shell_completes_commands_without_importing_them(program: Path) -> None:
    done = call(program, _MOON_COMPLETE="bash_complete", COMP_WORDS="moon gr", COMP_CWORD="1")
    assert done.stdout.strip() == "plain,greet", done.stderr
    assert "complete" in call(program, _MOON_COMPLETE="bash_source").stdout
