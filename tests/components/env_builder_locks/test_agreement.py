"""Locks against what was asked for, and against each other."""

from __future__ import annotations

import pytest

from components.env_builder_locks.third_party import HASH, ThirdParty, codes, lock_text
from tunewright.env_builder.locks.project import find_lock_problems


def test_locks_that_are_what_was_asked_for_have_no_problems(third_party: ThirdParty) -> None:
    asked = "# light\nNumPy>=2\ntyping_extensions  # all versions\ncoverage[toml] \\\n    >=7\n"
    third_party.resolve("tools", asked, "numpy==2.4.6", "typing-extensions==4.16.0", "coverage==7.17.3", "idna==3.20")
    assert find_lock_problems(third_party.root) == []


def test_a_checkout_without_third_party_folder_has_no_problems(third_party: ThirdParty) -> None:
    assert find_lock_problems(third_party.root) == []


def test_a_requirement_that_is_not_locked_is_named_with_file_line_and_the_command(third_party: ThirdParty) -> None:
    third_party.resolve("tools", "numpy>=2\n\n# new\nrich>=13\n", "numpy==2.4.6")
    (finding,) = find_lock_problems(third_party.root)
    assert finding.code == "lock-requirement-missing"
    assert finding.path == "3rdparty/python/tools.in:4"
    assert "`rich>=13`" in finding.message
    assert finding.hint == "lock it anew: 3rdparty/python/refresh-locks tools"


@pytest.mark.parametrize(
    ("asked", "locked", "allowed"),
    [
        ("torch==2.13.0", "torch==2.13.0+cpu", True),
        ("torch==2.13.0", "torch==2.13.1", False),
        ("torch==2.13.0+cpu", "torch==2.13.0", False),
        ("numpy>=2,<3", "numpy==1.26.4", False),
        ("numpy>=2,<3", "numpy==2.0.0rc1", False),
        ("numpy>=2.0rc0", "numpy==2.0.0rc1", True),
        ("flash-attn==2.8.3.post2", "flash-attn==2.8.3", False),
        ("cuda-toolkit[nvcc]==13.0.*", "cuda-toolkit==13.0.3.0", True),
        ("cuda-toolkit[nvcc]==13.0.*", "cuda-toolkit==13.1.0", False),
    ],
)
def test_a_locked_version_is_one_that_the_specifier_allows(
    asked: str, locked: str, allowed: bool, third_party: ThirdParty
) -> None:
    third_party.resolve("x", asked, locked)
    assert codes(find_lock_problems(third_party.root)) == ([] if allowed else ["lock-version-not-allowed"])


def test_a_version_that_is_not_allowed_is_named_with_both_places(third_party: ThirdParty) -> None:
    third_party.resolve("tools", "rich>=13\nnumpy>=2\n", "rich==15.0.0", "numpy==1.26.4")
    (finding,) = find_lock_problems(third_party.root)
    assert finding.path == "3rdparty/python/tools.in:2"
    assert "numpy 1.26.4" in finding.message
    assert "3rdparty/python/tools.lock:3" in finding.message


def test_requirements_for_other_systems_are_not_missed(third_party: ThirdParty) -> None:
    third_party.resolve(
        "tools", 'colorama>=0.4; sys_platform == "win32"\nnumpy; python_version >= "3.11"', "idna==3.20"
    )
    (finding,) = find_lock_problems(third_party.root)
    assert finding.path == "3rdparty/python/tools.in:2"


@pytest.mark.parametrize("line", ["numpy>>2", "./local/package", "--pre", "numpy 2"])
def test_a_line_that_is_no_requirement_is_named(line: str, third_party: ThirdParty) -> None:
    third_party.resolve("tools", f"rich\n{line}\n", "rich==15.0.0")
    (finding,) = find_lock_problems(third_party.root)
    assert finding.code == "lock-requirement-unreadable"
    assert finding.path == "3rdparty/python/tools.in:2"
    assert line in finding.message


def test_requirements_without_a_lock_are_named_with_the_command(third_party: ThirdParty) -> None:
    third_party.write("train-cuda.in", "torch")
    (finding,) = find_lock_problems(third_party.root)
    assert (finding.code, finding.path) == ("lock-missing", "3rdparty/python/train-cuda.in")
    assert finding.hint.endswith("refresh-locks train-cuda")


def test_requirements_that_are_locked_with_others_need_no_lock_and_are_looked_for_there(
    third_party: ThirdParty,
) -> None:
    third_party.write("inference.in", "fastapi\ntorch\n")
    third_party.resolve("train-cpu", "torch==2.13.0\n", "torch==2.13.0+cpu")
    (finding,) = find_lock_problems(third_party.root)
    assert (finding.code, finding.path) == ("lock-requirement-missing", "3rdparty/python/inference.in:1")
    assert finding.hint.endswith("refresh-locks train-cpu")


def test_what_an_included_file_asks_for_must_be_locked_too(third_party: ThirdParty) -> None:
    third_party.resolve("train-cpu", "torch==2.13.0\npeft>=0.21\n", "torch==2.13.0+cpu", "peft==0.21.2")
    third_party.resolve("train-cuda", "-r train-cpu.in\nliger-kernel\n", "torch==2.13.0", "liger-kernel==0.8.5")
    (finding,) = find_lock_problems(third_party.root)
    assert finding.path == "3rdparty/python/train-cpu.in:2"
    assert "train-cuda.lock" in finding.message


def test_an_included_file_that_is_not_there_is_named_and_a_circle_ends(third_party: ThirdParty) -> None:
    third_party.resolve("a", "-r b.in\n--requirement lost.in\nrich\n", "rich==15.0.0")
    third_party.resolve("b", "-r a.in\nrich\n", "rich==15.0.0")
    findings = find_lock_problems(third_party.root)
    assert {(finding.code, finding.path) for finding in findings} == {
        ("lock-requirement-unreadable", "3rdparty/python/a.in:2")
    }


@pytest.mark.parametrize("pin", ["numpy>=2", "numpy", "numpy==2.*", "numpy==two"])
def test_an_entry_that_is_not_pinned_to_one_version_is_named(pin: str, third_party: ThirdParty) -> None:
    third_party.resolve("tools", "rich\n", "rich==15.0.0", pin)
    (finding,) = find_lock_problems(third_party.root)
    assert (finding.code, finding.path) == ("lock-entry-not-pinned", "3rdparty/python/tools.lock:3")


@pytest.mark.parametrize("hashes", ["", "--hash=md5:" + "a" * 32, "--hash=sha256:" + "a" * 63, HASH + "a", "# " + HASH])
def test_an_entry_without_a_sha256_is_named(hashes: str, third_party: ThirdParty) -> None:
    third_party.write("tools.in", "rich")
    third_party.write("tools.lock", f"{lock_text('idna==3.20')}rich==15.0.0 \\\n    {hashes}\n")
    (finding,) = find_lock_problems(third_party.root)
    assert (finding.code, finding.path) == ("lock-without-hash", "3rdparty/python/tools.lock:3")


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://index.example/simple",
        "--find-links /opt/wheels",
        "-f wheels",
        "    # from https://index.example/simple",
        f"torch @ file:///tmp/torch.whl {HASH}",
    ],
)
def test_a_lock_that_names_where_to_fetch_from_is_named_by_line(line: str, third_party: ThirdParty) -> None:
    third_party.write("tools.in", "rich")
    third_party.write("tools.lock", f"{lock_text('rich==15.0.0')}{line}\n")
    findings = [finding for finding in find_lock_problems(third_party.root) if finding.code == "lock-names-a-host"]
    assert [finding.path for finding in findings] == ["3rdparty/python/tools.lock:3"]


def test_tokenizers_must_be_one_version_where_ids_are_made_and_where_they_are_trained(third_party: ThirdParty) -> None:
    third_party.resolve("tools", "tokenizers\nrich\n", "rich==15.0.0", "tokenizers==0.23.3")
    third_party.resolve("train-cpu", "tokenizers\nrich\n", "rich==14.0.0", "tokenizers==0.23.2")
    (finding,) = find_lock_problems(third_party.root)
    assert (finding.code, finding.path) == ("locks-disagree", "3rdparty/python/train-cpu.lock:3")
    assert "0.23.2" in finding.message
    assert "0.23.3 in 3rdparty/python/tools.lock" in finding.message
    assert finding.hint.endswith("refresh-locks tools train-cpu")


def test_what_runs_on_gpus_is_what_was_tried_on_cpus_but_for_the_local_version(third_party: ThirdParty) -> None:
    third_party.resolve("train-cpu", "torch\npeft\n", "torch==2.13.0+cpu", "peft==0.21.2")
    third_party.resolve("train-cuda", "torch\npeft\n", "torch==2.13.0", "peft==0.21.1", "triton==3.7.1")
    third_party.resolve("flash-attn-build", "torch\n", "torch==2.12.0", "wheel==0.48.0")
    found = {finding.path: finding.code for finding in find_lock_problems(third_party.root)}
    assert found == {
        "3rdparty/python/train-cuda.lock:3": "locks-disagree",
        "3rdparty/python/flash-attn-build.lock:1": "locks-disagree",
    }


def test_all_problems_are_told_at_once(third_party: ThirdParty) -> None:
    third_party.write("tools.in", "rich>=16\nnumpy\n")
    third_party.write("tools.lock", "--index-url https://index.example\nrich==15.0.0\n")
    assert codes(find_lock_problems(third_party.root)) == [
        "lock-version-not-allowed",
        "lock-requirement-missing",
        "lock-without-hash",
        "lock-names-a-host",
    ]


def test_a_lock_is_judged_by_its_content_and_never_by_its_time(third_party: ThirdParty) -> None:
    third_party.write("tools.lock", lock_text("rich==15.0.0"))
    third_party.write("tools.in", "rich>=13\n")  # newer than its lock, and the lock still has what it asks for
    assert find_lock_problems(third_party.root) == []
