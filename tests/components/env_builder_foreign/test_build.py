"""Building for real, with the pinned Pex, from wheels made on the spot: no network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.env_builder_foreign import wheels
from components.env_builder_foreign.bench import Bench, give_pex, make_bench, run_in
from components.env_builder_foreign.wheels import Pinned, Wheel, requirements_txt
from tunewright.contracts.errors import IntegrityError
from tunewright.env_builder.foreign.imported import read_imported
from tunewright.env_builder.foreign.target import Target
from tunewright.env_builder.record import find_place, list_built, verify_built

ALPHA = Wheel("alpha", "1.0", ("beta>=1",))
BETA = Wheel("beta", "2.0")


def of_conda(pinned: Sequence[Pinned]) -> str:
    return wheels.conda_lock(pinned, Target.here().conda_platform)


FORMATS: dict[str, Callable[[Sequence[Pinned]], str]] = {
    "uv.lock": wheels.uv_lock,
    "pylock.toml": wheels.pylock_toml,
    "poetry.lock": wheels.poetry_lock,
    "requirements.txt": wheels.requirements_txt,
    "conda-lock.yml": of_conda,
    "environment.yml": wheels.environment_yml,
}


@dataclass(frozen=True)
class Built:
    """An environment that several tests look at."""

    bench: Bench
    pinned: list[Pinned]
    document: dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pex_program: Path, pex_root: Path) -> Built:
    """Built once; where its wheels come from, pip's configuration file says."""
    directory = tmp_path_factory.mktemp("built")
    bench = give_pex(make_bench(directory), pex_program, pex_root)
    pinned = bench.pinned(ALPHA, BETA)
    path = bench.file("requirements.txt", requirements_txt(pinned))
    (directory / "pip.conf").write_text(f"[global]\nfind-links = {bench.links}\nno-index = true\n")
    configured = {"PIP_CONFIG_FILE": str(directory / "pip.conf"), "PIP_FIND_LINKS": "", "PIP_NO_INDEX": ""}
    document = bench.build("--from", str(path), **configured)
    for wheel in bench.links.iterdir():
        wheel.unlink()  # nothing could be built from here on
    return Built(bench, pinned, document)


OF_ONE_KEY = ("requirements.txt", "uv.lock", "pylock.toml", "poetry.lock")
"""Formats that say the same of the wheels: what is built from one is found from each."""


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - set(OF_ONE_KEY)))
def test_an_environment_of_each_format_starts_with_its_packages(name: str, bench: Bench) -> None:
    path = bench.file(name, FORMATS[name](bench.pinned(ALPHA, BETA)))
    document = bench.build("--from", str(path))
    assert what_it_says(document) == "1.0 2.0 (3, 11)"
    assert (document["built"], document["pins"], document["from"]["format"]) == (True, 2, name)


def what_it_says(document: dict[str, Any]) -> str:
    return run_in(document, "import alpha, beta, sys; print(alpha.VERSION, beta.VERSION, sys.version_info[:2])")


def test_the_record_vouches_for_every_wheel_as_the_lock_has_it(built: Built) -> None:
    place = find_place(built.bench.home, built.document["key"][:12])
    environment = verify_built(place)
    assert environment.sha256 == built.document["sha256"]
    digests = {Path(record.file).name: record.sha256 for record in environment.files}
    assert {one.wheel.file: one.sha256 for one in built.pinned}.items() <= digests.items()
    record = read_imported(place.directory)
    assert record is not None
    assert [(wheel.name, wheel.built_here) for wheel in record.wheels] == [("alpha", False), ("beta", False)]
    lock = (place.directory / "requirements.lock").read_bytes()
    assert built.document["lock_digest"] == hashlib.sha256(lock).hexdigest()


def test_a_changed_byte_is_found_and_named(built: Built) -> None:
    wheel = Path(built.document["reference"]) / ".deps" / ALPHA.file
    before = wheel.read_bytes()
    wheel.write_bytes(before + b"x")
    try:
        with pytest.raises(IntegrityError, match=ALPHA.file):
            verify_built(find_place(built.bench.home, built.document["key"]))
    finally:
        wheel.write_bytes(before)


def test_it_is_listed_with_the_others_and_found_by_its_path(built: Built) -> None:
    assert [one.key for one in list_built(built.bench.home)] == [built.document["key"]]
    assert find_place(built.bench.home, built.document["reference"]).key == built.document["key"]


@pytest.mark.parametrize("name", OF_ONE_KEY)
def test_it_is_found_again_without_building_from_every_format(name: str, built: Built) -> None:
    again = built.bench.build("--from", str(built.bench.file(name, FORMATS[name](built.pinned))))
    assert (built.document["built"], again["built"]) == (True, False)
    assert {**again, "built": True, "from": {}, "left_out": []} == {**built.document, "from": {}, "left_out": []}
    assert (again["pins"], again["from"]["format"], what_it_says(again)) == (2, name, "1.0 2.0 (3, 11)")


def test_a_home_that_moved_is_used_where_it_is_now(built: Built, tmp_path: Path) -> None:
    shutil.copytree(built.bench.home / "environments", tmp_path / "environments", symlinks=True)
    path = str(built.bench.file("requirements.txt", requirements_txt(built.pinned)))
    again = built.bench.build("--from", path, TUNEWRIGHT_HOME=str(tmp_path))
    assert not again["built"]
    assert (
        again["command"][1] == again["reference"] == str(tmp_path / "environments" / again["key"] / "environment.pex")
    )


def test_another_home_gives_the_same_bytes(built: Built, bench: Bench, tmp_path: Path) -> None:
    path = bench.file("requirements.txt", requirements_txt(bench.pinned(ALPHA, BETA)))
    (bench.home / "pex_root").unlink()
    again = bench.build("--from", str(path), TMPDIR=str(tmp_path), HOME=str(tmp_path))
    assert again["built"]
    assert (again["key"], again["sha256"]) == (built.document["key"], built.document["sha256"])


def test_pins_without_hashes_get_those_of_what_was_installed_and_keep_them(bench: Bench) -> None:
    pinned = bench.pinned(ALPHA, BETA)
    path = bench.file("requirements.txt", requirements_txt(pinned, hashed=False))
    first = bench.build("--from", str(path))
    assert first["hashed"] == 0
    assert any("2 pin(s) have no hash in the file" in note for note in first["notes"])
    lock = (Path(first["reference"]).parent / "requirements.lock").read_text()
    assert all(one.sha256 in lock for one in pinned)
    (bench.links / ALPHA.file).unlink()
    second = bench.build("--from", str(path))
    assert (second["built"], second["key"]) == (False, first["key"])


def test_a_file_that_does_not_name_what_its_packages_need_is_refused_naming_it(bench: Bench) -> None:
    bench.pinned(ALPHA, BETA)
    path = bench.file("requirements.txt", "alpha==1.0\n")
    refused = bench.call("--from", str(path), expect=78)
    assert "beta: is needed by alpha, and stands in no line of the file" in refused.stderr
    assert "--allow-unpinned" in refused.stderr
    assert bench.environments() == []


def test_unpinned_lines_are_resolved_once_where_that_is_allowed(bench: Bench) -> None:
    bench.pinned(ALPHA, BETA)
    path = bench.file("requirements.txt", "alpha\n")
    first = bench.build("--from", str(path), "--allow-unpinned")
    bench.pinned(Wheel("alpha", "1.1", ("beta",)), Wheel("beta", "3.0"))
    second = bench.build("--from", str(path), "--allow-unpinned")
    assert (first["pins"], second["built"], second["key"]) == (2, False, first["key"])
    assert run_in(second, "import alpha, beta; print(alpha.VERSION, beta.VERSION)") == "1.0 2.0"


def test_other_bytes_under_a_pinned_version_are_refused_in_pips_own_words(bench: Bench) -> None:
    text = requirements_txt(bench.pinned(ALPHA, BETA))
    bench.pinned(Wheel("beta", "2.0", text="print('not what was locked')\n"))
    refused = bench.call("--from", str(bench.file("requirements.txt", text)), expect=69)
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert "beta==2.0" in refused.stderr
    assert "do not use them unseen" in refused.stderr
    assert ".log" in refused.stderr
    assert bench.environments() == []


def test_a_package_that_no_index_has_is_refused_in_pips_own_words(bench: Bench) -> None:
    text = requirements_txt([*bench.pinned(BETA), Pinned(Wheel("ghost", "1.0"), "0" * 64)])
    refused = bench.call("--from", str(bench.file("requirements.txt", text)), expect=69)
    assert "No matching distribution found for ghost==1.0" in refused.stderr
    assert bench.environments() == []


def test_a_source_archive_is_built_here_and_said_to_be(bench: Bench) -> None:
    bench.pinned(Wheel("wheel", "0.37.1"))  # what Pex's own pip wants to be there before it builds anything
    pinned = wheels.write_source_archive(bench.links, "gamma", "1.0")
    document = bench.build("--from", str(bench.file("requirements.txt", requirements_txt([pinned]))))
    assert run_in(document, "import gamma; print(gamma.VERSION)") == "1.0"
    assert "gamma 1.0 was built here from its source archive" in document["notes"]


def test_what_a_package_lacks_is_a_note_and_no_surprise(bench: Bench) -> None:
    path = bench.file("uv.lock", wheels.uv_lock(bench.pinned(ALPHA)))
    document = bench.build("--from", str(path))
    assert "alpha 1.0 requires beta>=1, which is not there" in document["notes"]
    again = bench.build("--from", str(path))
    assert again["notes"] == document["notes"]


def test_without_pex_it_says_where_it_must_be_called(bare_bench: Bench) -> None:
    path = bare_bench.file("requirements.txt", requirements_txt(bare_bench.pinned(ALPHA, BETA)))
    refused = bare_bench.call("--from", str(path), expect=77)
    assert "ensure-pex.sh" in refused.stderr
    assert "checkout" in refused.stderr


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 50
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_two_processes_build_it_once(bench: Bench) -> None:
    path = str(bench.file("requirements.txt", requirements_txt(bench.pinned(ALPHA, BETA))))
    processes = [bench.start("--from", path, "--json") for _ in range(2)]
    answers = [process.communicate(timeout=55) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    documents = [json.loads(out) for out, _ in answers]
    assert sorted(document["built"] for document in documents) == [False, True]
    assert documents[0]["key"] == documents[1]["key"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_build_that_is_ended_half_way_leaves_nothing_whole(how: signal.Signals, code: int, bench: Bench) -> None:
    path = str(bench.file("requirements.txt", requirements_txt(bench.pinned(ALPHA, BETA))))
    process = bench.start("--from", path)
    wait_for(lambda: list((bench.home / "environments").glob(".*.tmp/requirements.lock")))
    os.kill(process.pid, how)
    assert process.wait(timeout=50) == code
    assert list_built(bench.home) == []
    if how == signal.SIGINT:
        assert bench.environments() == []
        return
    document = bench.build("--from", path)
    assert document["built"]
    assert bench.environments() == [document["key"]]
