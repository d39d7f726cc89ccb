"""Building: once, whole or not at all, in an environment that no outer Pants has touched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.env_builder.checkout import Checkout
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import EnvironmentBuildFailed, PreflightFailed
from tunewright.contracts.files import sha256_of_file, sha256_of_tree
from tunewright.env_builder.build import ensure_environment
from tunewright.env_builder.record import EnvironmentPlace, list_built, read_built


def environments(checkout: Checkout) -> list[str]:
    """What looks like an environment, whole or half."""
    directory = checkout.home / "environments"
    return sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.exists() else []


def test_the_reference_tells_everything_that_identifies_the_environment(checkout: Checkout) -> None:
    provided = ensure_environment(checkout.request())
    reference = provided.reference
    assert provided.built
    assert reference.sha256 == sha256_of_tree(Path(reference.reference))
    assert reference.lock_digest == sha256_of_file(checkout.root / "3rdparty/a.lock")
    assert reference.commit == checkout.git("rev-parse", "HEAD")
    assert reference.python == ".".join(map(str, sys.version_info[:3]))
    assert reference.variables == {"PEX_ROOT": str(checkout.home / "pex_root")}
    assert Path(reference.reference) == checkout.home / "environments" / reference.key / "trainer.pex"


def test_the_command_starts_the_trainer_with_an_interpreter_outside_any_virtual_environment(checkout: Checkout) -> None:
    reference = ensure_environment(checkout.request()).reference
    assert os.path.realpath(reference.command[0]) == reference.command[0]
    script = "import sys; print(sys.prefix == sys.base_prefix, sys.version_info[:2])"
    said = subprocess.run([reference.command[0], "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "True (3, 11)"
    done = subprocess.run(
        [*reference.command, "--version"], env=reference.variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("tunewright-trainer 0.1.0"), done.stderr


def test_the_first_start_has_unpacked_it(checkout: Checkout) -> None:
    reference = ensure_environment(checkout.request()).reference
    assert Path(reference.variables["PEX_ROOT"]).is_dir()


def test_a_second_call_builds_nothing_and_gives_the_same(checkout: Checkout) -> None:
    first = ensure_environment(checkout.request())
    second = ensure_environment(checkout.request())
    planned = ensure_environment(checkout.request(plan_only=True))
    assert (second.built, planned.built) == (False, False)
    assert first.reference == second.reference == planned.reference
    assert len(checkout.calls()) == 1


def test_a_later_commit_of_the_docs_reuses_it_and_says_which_commit_it_is_of(checkout: Checkout) -> None:
    first = ensure_environment(checkout.request()).reference
    checkout.commit("docs/page.md", "words")
    second = ensure_environment(checkout.request()).reference
    assert second == first
    assert second.commit != checkout.git("rev-parse", "HEAD")


def test_a_home_that_moved_is_used_where_it_is_now(checkout: Checkout, tmp_path: Path) -> None:
    ensure_environment(checkout.request())
    checkout.home.rename(tmp_path / "moved")
    moved = Checkout(checkout.root, tmp_path / "moved", checkout.seen)
    provided = ensure_environment(moved.request())
    assert not provided.built
    assert str(tmp_path / "moved") in provided.reference.command[1]


def test_two_processes_build_it_once(checkout: Checkout) -> None:
    checkout.hold()
    processes = [checkout.start("build", "--json"), checkout.start("build", "--json")]
    checkout.wait_for_calls(1)
    checkout.release()
    answers = [process.communicate(timeout=50) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    documents = [json.loads(out) for out, _ in answers]
    assert sorted(document.pop("built") for document in documents) == [False, True]
    assert documents[0] == documents[1]
    assert len(checkout.calls()) == 1


def test_a_build_killed_half_way_leaves_nothing_whole_and_the_next_builds(checkout: Checkout) -> None:
    checkout.hold()
    process = checkout.start("build")
    checkout.wait_for_calls(1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=50)
    assert list_built(checkout.home) == []
    provided = ensure_environment(checkout.request())
    assert provided.built
    assert environments(checkout) == [provided.reference.key]
    assert list((checkout.root / "dist").glob(".environment-*")) == []
    checkout.release()


def test_a_build_interrupted_by_the_user_cleans_up_and_ends_with_130(checkout: Checkout) -> None:
    checkout.hold()
    process = checkout.start("build")
    checkout.wait_for_calls(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert environments(checkout) == []
    assert list((checkout.root / "dist").iterdir()) == []


def test_a_broken_build_names_its_log_and_the_last_lines(checkout: Checkout) -> None:
    checkout.commit("components/trainer/broken", "")
    with pytest.raises(EnvironmentBuildFailed) as caught:
        ensure_environment(checkout.request())
    message = caught.value.message
    assert "error line 29" in message
    assert "error line 9\n" not in message
    assert "ended with 3" in message
    log = checkout.home / "environments" / f"{ensure_environment(checkout.request(plan_only=True)).reference.key}.log"
    assert str(log) in message
    assert "error line 0\n" in log.read_text()
    assert environments(checkout) == []


def test_a_pex_that_does_not_start_is_no_environment(checkout: Checkout) -> None:
    checkout.commit("components/trainer/src/__main__.py", "raise SystemExit('no torch here')\n")
    with pytest.raises(EnvironmentBuildFailed, match="does not start") as caught:
        ensure_environment(checkout.request())
    assert "no torch here" in caught.value.message
    assert environments(checkout) == []


def test_a_build_that_makes_nothing_fails(checkout: Checkout) -> None:
    checkout.commit("pants", f"#!{sys.executable}\n")
    with pytest.raises(EnvironmentBuildFailed, match=r"made no tunewright-trainer\.pex"):
        ensure_environment(checkout.request())


def test_a_directory_without_its_record_is_no_environment(checkout: Checkout) -> None:
    reference = ensure_environment(checkout.request()).reference
    (checkout.home / "environments" / reference.key / "environment.json").unlink()
    assert ensure_environment(checkout.request()).built


def test_a_record_without_its_pex_is_no_environment(checkout: Checkout) -> None:
    reference = ensure_environment(checkout.request()).reference
    shutil.rmtree(reference.reference)
    assert ensure_environment(checkout.request()).built


def test_a_tree_that_is_not_the_commit_asked_for_is_refused(checkout: Checkout) -> None:
    request = checkout.request()
    checkout.commit("components/trainer/src/trainer.py", "later")
    with pytest.raises(EnvironmentBuildFailed, match=r"components/trainer/src/trainer\.py"):
        ensure_environment(request)
    assert checkout.calls() == []


def test_an_edit_while_it_is_built_is_found(checkout: Checkout) -> None:
    checkout.hold()
    process = checkout.start("build")
    checkout.wait_for_calls(1)
    checkout.write("components/trainer/src/trainer.py", "edited too late")
    checkout.release()
    _, err = process.communicate(timeout=50)
    assert process.returncode == 69, err
    assert "components/trainer/src/trainer.py" in err
    assert environments(checkout) == []


def test_a_dirty_build_never_replaces_the_commits_own(checkout: Checkout) -> None:
    clean = ensure_environment(checkout.request()).reference
    checkout.write("components/trainer/src/trainer.py", "dirty")
    dirty = ensure_environment(checkout.request(dirty=True)).reference
    assert dirty.key != clean.key
    assert dirty.sha256 != clean.sha256
    assert (Path(clean.reference) / "trainer.py").read_text() != "dirty"
    assert (Path(dirty.reference) / "trainer.py").read_text() == "dirty"


def test_nothing_is_built_where_there_is_no_trainer(checkout: Checkout) -> None:
    checkout.git("rm", "-rq", "components/trainer")
    checkout.git("commit", "--quiet", "-m", "no trainer")
    with pytest.raises(PreflightFailed, match="components/trainer") as caught:
        ensure_environment(checkout.request())
    assert caught.value.report is not None
    assert [finding.code for finding in caught.value.report.errors] == ["environment-no-trainer-sources"]
    assert not checkout.home.exists()


@pytest.fixture
def call(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How `./pants` was called by a program that `pants run` and a PEX had started."""
    left_behind = {
        "PANTS_BUILDROOT_OVERRIDE": "/outer", "PANTS_BIN_NAME": "./pants", "_PANTS_SERVER_EXE": "/outer/pants",
        "PEX": "/outer.pex", "PEX_ROOT": "/outer", "PEX_EXTRA_SYS_PATH": "/outer", "PYTHONPATH": "/outer",
        "TUNEWRIGHT_COMMIT": "0" * 40, "SCIE_ARGV0": "pants", "VIRTUAL_ENV": "/outer",
        "PANTSD_REQUEST_TIMEOUT_LIMIT": "60",
    }  # fmt: skip
    users_own = {"PANTS_PYTHON_REPOS_FIND_LINKS": '["wheels"]', "PANTS_LOCAL_STORE_DIR": "store", "MINE": "kept"}
    monkeypatch.setenv("PATH", f"/outer/bin{os.pathsep}{os.environ['PATH']}")
    for name, value in {**left_behind, **users_own}.items():
        monkeypatch.setenv(name, value)
    ensure_environment(checkout.request())
    (only,) = checkout.calls()
    return {**only, "left_behind": left_behind, "users_own": users_own}


def test_what_an_outer_pants_and_pex_left_does_not_reach_the_inner_one(call: dict[str, Any]) -> None:
    assert [name for name in call["left_behind"] if name in call["environment"]] == []
    assert call["environment"]["PANTS_CONCURRENT"] == "true"
    # PATH is part of what Pants caches by: with a PEX's own `bin` in it, everything would be installed anew.
    assert "/outer/bin" not in call["environment"]["PATH"].split(os.pathsep)


def test_the_users_own_settings_reach_it(call: dict[str, Any]) -> None:
    assert {name: call["environment"].get(name) for name in call["users_own"]} == call["users_own"]


def test_pants_is_called_for_the_trainer_in_the_project(call: dict[str, Any], checkout: Checkout) -> None:
    option, *rest = call["arguments"]
    assert rest == ["package", "components/trainer:trainer"]
    assert option.startswith("--pants-distdir=dist/.environment-")
    assert Path(call["cwd"]) == checkout.root


def test_pants_on_path_is_used_where_the_project_has_no_script(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    shutil.copy2(checkout.root / "pants", programs / "pants")
    checkout.git("rm", "-q", "pants")
    checkout.git("commit", "--quiet", "-m", "no script")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert ensure_environment(checkout.request()).built


def test_the_record_reads_back_as_what_was_answered(checkout: Checkout) -> None:
    reference = ensure_environment(checkout.request()).reference
    built = read_built(EnvironmentPlace(checkout.home, reference.key))
    assert built is not None
    assert built.plain == reference
    assert isinstance(built.plain, EnvironmentRef)
    assert built.pants_version == "2.17.1"
    assert {record.file for record in built.files} >= {"trainer.pex/__main__.py", "trainer.pex/trainer.py"}
