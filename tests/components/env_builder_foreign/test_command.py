"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from components.env_builder_foreign.bench import Bench
from components.env_builder_foreign.machine import FIXTURES
from components.env_builder_foreign.wheels import Wheel, requirements_txt
from tunewright.env_builder.foreign import options

UV = str((FIXTURES / "uv/uv.lock").absolute())


def test_a_build_prints_where_it_is_and_beside_it_what_is_left_out(bench: Bench) -> None:
    text = "--index-url https://me:hunter2@example.invalid/simple\n" + requirements_txt(
        bench.pinned(Wheel("beta", "2.0"))
    )
    done = bench.call("--from", str(bench.file("requirements.txt", text)))
    assert done.stdout.endswith("/environment.pex\n")
    assert done.stdout.count("\n") == 1
    assert "1 package(s), 1 of 1 with hashes; 1 left out" in done.stderr
    assert "--index-url https://example.invalid/simple  pip's own configuration decides" in done.stderr
    again = bench.call("--from", str(bench.file("requirements.txt", text)))
    assert "nothing to build" in again.stderr
    written = [path for path in (bench.home / "environments").rglob("*") if path.is_file()]
    assert not any(b"hunter2" in path.read_bytes() for path in written)


def test_a_dry_run_prints_the_lock_and_builds_nothing(bare_bench: Bench) -> None:
    done = bare_bench.call("--from", UV, "--dry-run")
    assert done.stdout.startswith("click==8.5.1 \\\n    --hash=sha256:")
    assert "gitdep 0.3.0" in done.stderr
    assert list(bare_bench.home.iterdir()) == []


def test_a_dry_run_as_json_has_the_key_the_pins_and_what_is_left_out(bare_bench: Bench) -> None:
    document = bare_bench.build("--from", UV, "--dry-run")
    assert [one["name"] for one in document["packages"]] == ["click", "idna", "packaging", "six"]
    assert (document["pins"], document["hashed"], document["built"]) == (4, 4, False)
    assert document["key"] in document["reference"]
    assert document["sha256"] is None
    assert {
        "what": "colorama 0.4.6",
        "why": "not for this machine: `sys_platform == 'win32'` does not hold",
    } in document["left_out"]


def test_a_dry_run_shows_unpinned_lines_as_they_are(bare_bench: Bench) -> None:
    path = str(bare_bench.file("requirements.txt", "idna==3.7\nclick>=8\n"))
    done = bare_bench.call("--from", path, "--dry-run")
    assert done.stdout == "idna==3.7\n# unpinned: click>=8\n"
    document = bare_bench.build("--from", path, "--dry-run")
    assert (document["key"], [one["requirement"] for one in document["unpinned"]]) == (None, ["click>=8"])


def test_extras_and_groups_reach_the_lock(bare_bench: Bench) -> None:
    document = bare_bench.build("--from", UV, "--dry-run", "--extra", "pretty", "--group", "dev")
    assert {"pygments", "iniconfig"} <= {one["name"] for one in document["packages"]}


def test_every_unpinned_line_is_named_with_its_file_and_line(bare_bench: Bench) -> None:
    path = bare_bench.file("requirements.txt", "click>=8\nidna==3.7\n-r more.txt\n")
    bare_bench.file("more.txt", "\nsix\n")
    refused = bare_bench.call("--from", str(path), expect=78)
    assert f"{path}:1: `click>=8` has no exact version" in refused.stderr
    assert "more.txt:2: `six` has no exact version" in refused.stderr
    assert "idna" not in refused.stderr
    assert "--allow-unpinned" in refused.stderr


@pytest.mark.parametrize(
    ("name", "text", "arguments", "code", "said"),
    [
        ("gone.txt", None, (), 66, "no such file"),
        ("uv.lock", "not = toml = at all", (), 78, "is not TOML"),
        ("uv.lock", "version = 9\n", (), 78, "newer than is known"),
        ("some.bin", "x", (), 64, "--format"),
        ("requirements.txt", "idna==3.7\n", ("--extra", "x"), 64, "it has no extra"),
        ("requirements.txt", "-e .\n", (), 78, "nothing of it can be carried over"),
        ("requirements.txt", "idna==3.7\n", ("--format", "what"), 64, "--format"),
    ],
)
def test_a_wrong_file_ends_with_one_clear_error(
    name: str, text: str | None, arguments: tuple[str, ...], code: int, said: str, bare_bench: Bench
) -> None:
    path = bare_bench.file(name, text or "")
    if text is None:
        path.unlink()
    refused = bare_bench.call("--from", str(path), *arguments, expect=code)
    assert said in refused.stderr
    assert refused.stdout == ""
    assert list(bare_bench.home.iterdir()) == []


@pytest.mark.parametrize("option", [("--extra", "x"), ("--group", "x"), ("--allow-unpinned",), ("--dry-run",)])
def test_an_option_that_means_nothing_without_a_file_is_refused(option: tuple[str, ...], bare_bench: Bench) -> None:
    refused = bare_bench.call(*option, expect=64)
    assert "go with --from FILE" in refused.stderr


def test_the_options_alone_load_nothing_heavy() -> None:
    program = (
        f"import sys, {options.__name__}; print([one for one in ('packaging', 'yaml', 'rich') if one in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
