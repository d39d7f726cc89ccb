"""`uv.lock`: real ones made by uv, and what no small project has."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, pins_of, read, read_text, reasons
from tunewright.contracts.errors import InvalidExperiment, UsageError

UV = FIXTURES / "uv/uv.lock"
CONFLICTS = FIXTURES / "uv-conflicts/uv.lock"
DIGEST = "a" * 64

HEAD = 'version = 1\nrequires-python = ">=3.11"\n'
ROOT = '[[package]]\nname = "demo"\nversion = "1"\nsource = {{ editable = "." }}\ndependencies = [{edges}]\n'


def package(
    name: str, version: str, more: str = "", source: str = 'registry = "https://example.invalid/simple"'
) -> str:
    return f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ {source} }}\n{more}\n'


def lock_of(edges: str, *packages: str, head: str = HEAD) -> str:
    return "\n".join([head, ROOT.format(edges=edges), *packages])


def test_what_the_project_needs_here_is_pinned_with_the_hashes_of_all_its_files() -> None:
    lock = read(UV)
    assert pins_of(lock) == ["click==8.5.1", "idna==3.20", "packaging==26.3", "six==1.17.0"]
    assert [len(pin.hashes) for pin in lock.pins] == [2, 2, 2, 2]
    assert lock.requires_python == ">=3.10"
    assert lock.loose == ()


def test_each_package_that_stays_behind_has_its_own_reason() -> None:
    left = reasons(read(UV))
    assert "sys_platform == 'win32'" in left["colorama 0.4.6"]
    assert "python_full_version < '3.11'" in left[next(one for one in left if one.startswith("typing-extensions"))]
    assert "extra pretty" in left[next(one for one in left if one.startswith("pygments"))]
    assert "group dev" in left[next(one for one in left if one.startswith("iniconfig"))]
    assert left["gitdep 0.3.0"].startswith("from git: https://example.invalid/gitdep.git#")
    assert "packages/tool" in left["demo-tool 0.2.0"]
    assert "--extra pretty" in left["extra pretty of demo"]
    assert "--group dev" in left["group dev of demo"]


def test_what_a_left_out_package_needs_is_there_all_the_same() -> None:
    assert "idna==3.20" in pins_of(read(UV))  # only gitdep needs it
    assert "six==1.17.0" in pins_of(read(UV))  # only the workspace member needs it


def test_an_index_that_is_not_the_public_one_is_named_with_its_packages() -> None:
    left = reasons(read(UV))
    assert left["index https://example.invalid/simple"].startswith("the file names it for click, idna, packaging, six")


def test_extras_and_groups_that_are_asked_for_are_followed() -> None:
    lock = read(UV, extras=("Pretty",), groups=("dev",))
    assert {"pygments==2.21.0", "iniconfig==2.3.1"} <= set(pins_of(lock))
    assert not any(name.startswith(("extra ", "group ")) for name in reasons(lock))


@pytest.mark.parametrize(("extra", "version"), [("old", "1.16.0"), ("new", "1.17.0")])
def test_conflicting_extras_each_give_their_own_version(extra: str, version: str) -> None:
    lock = read(CONFLICTS, extras=(extra,))
    assert pins_of(lock) == ["idna==3.20", "python-dateutil==2.9.0", f"six=={version}"]


def test_without_either_of_two_conflicting_extras_neither_version_is_there() -> None:
    lock = read(CONFLICTS)
    assert pins_of(lock) == ["idna==3.20"]
    left = reasons(lock)
    assert ("old" in left["six 1.16.0"], "new" in left["six 1.17.0"]) == (True, True)


def test_both_conflicting_extras_at_once_are_refused_naming_both_versions() -> None:
    with pytest.raises(InvalidExperiment, match=r"six is pinned to 1\.1[67]\.0 here, and to 1\.1[67]\.0 before"):
        read(CONFLICTS, extras=("old", "new"))


def test_an_extra_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"--extra nice: .*has no such extra; it has: pretty"):
        read(UV, extras=("nice",))


def test_an_extra_of_a_dependency_brings_what_it_stands_for(tmp_path: Path) -> None:
    more = '[package.optional-dependencies]\nSpeed_Up = [{ name = "fast" }]\nother = [{ name = "slow" }]'
    text = lock_of(
        '{ name = "server", extra = ["speed-up"] }',
        package("server", "2", more),
        package("fast", "1"),
        package("slow", "1"),
    )
    lock = read_text(tmp_path, "uv.lock", text)
    assert pins_of(lock) == ["fast==1", "server==2"]
    assert lock.pins[1].extras == ("speed-up",)
    assert "slow 1" in reasons(lock)


def test_an_extra_found_out_later_of_a_package_reached_before_is_followed(tmp_path: Path) -> None:
    more = '[package.optional-dependencies]\nspeed = [{ name = "fast" }]'
    user = package("user", "1", 'dependencies = [{ name = "server", extra = ["speed"] }]')
    edges = '{ name = "user" }, { name = "server" }'
    assert "fast==1" in pins_of(
        read_text(tmp_path, "uv.lock", lock_of(edges, user, package("server", "2", more), package("fast", "1")))
    )


def test_packages_that_need_each_other_end(tmp_path: Path) -> None:
    first = package("first", "1", 'dependencies = [{ name = "second" }]')
    second = package("second", "1", 'dependencies = [{ name = "first" }]')
    assert pins_of(read_text(tmp_path, "uv.lock", lock_of('{ name = "first" }', first, second))) == [
        "first==1",
        "second==1",
    ]


def test_of_two_versions_the_one_the_marker_chooses_is_taken(tmp_path: Path) -> None:
    source = 'source = { registry = "https://example.invalid/simple" }'
    edges = ", ".join(
        f'{{ name = "torch", version = "{version}", {source}, marker = "{marker}" }}'
        for version, marker in (("2.0", "sys_platform == 'darwin'"), ("2.0+cpu", "sys_platform != 'darwin'"))
    )
    text = lock_of(edges, package("torch", "2.0"), package("torch", "2.0+cpu"))
    assert pins_of(read_text(tmp_path, "uv.lock", text)) == ["torch==2.0+cpu"]


def test_without_a_wheel_for_this_machine_or_a_source_archive_it_stays_behind(tmp_path: Path) -> None:
    url = "https://example.invalid/mac-1-cp311-cp311-macosx_11_0_arm64.whl"
    wheel = f'wheels = [{{ url = "{url}", hash = "sha256:{DIGEST}" }}]'
    lock = read_text(tmp_path, "uv.lock", lock_of('{ name = "mac" }', package("mac", "1", wheel)))
    assert (pins_of(lock), "neither a wheel" in reasons(lock)["mac 1"]) == ([], True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            'url = "https://user:hunter2@example.invalid/x-1.whl?token=hunter2"',
            "from a URL: https://example.invalid/x-1.whl",
        ),
        ('path = "wheels/x-1-py3-none-any.whl"', "from a local file: wheels/x-1-py3-none-any.whl"),
        ('directory = "../x"', "a project's own code (../x)"),
        ('git = "https://hunter2@example.invalid/x?rev=main#abc"', "from git: https://example.invalid/x#abc"),
    ],
)
def test_what_does_not_come_from_an_index_stays_behind_and_tells_no_hunter2(
    source: str, said: str, tmp_path: Path
) -> None:
    lock = read_text(tmp_path, "uv.lock", lock_of('{ name = "x" }', package("x", "1", source=source)))
    assert reasons(lock)["x 1"].startswith(said)
    assert "hunter2" not in lock.model_dump_json()


def test_a_workspace_without_a_project_at_its_root_gives_what_its_members_need(tmp_path: Path) -> None:
    head = HEAD + '[manifest]\nmembers = ["one", "two"]\n'
    members = [
        package("one", "1", 'dependencies = [{ name = "a" }]', 'editable = "one"'),
        package("two", "1", 'dependencies = [{ name = "b" }]', 'virtual = "two"'),
    ]
    text = "\n".join([head, *members, package("a", "1"), package("b", "1"), package("c", "1")])
    lock = read_text(tmp_path, "uv.lock", text)
    assert pins_of(lock) == ["a==1", "b==1"]


def test_a_member_that_the_project_does_not_need_is_named(tmp_path: Path) -> None:
    head = HEAD + '[manifest]\nmembers = ["demo", "side"]\n'
    side = package("side", "1", source='editable = "packages/side"')
    lock = read_text(tmp_path, "uv.lock", lock_of('{ name = "a" }', package("a", "1"), side, head=head))
    assert "member of the workspace" in reasons(lock)["side 1"]


def test_another_python_is_told(tmp_path: Path) -> None:
    head = 'version = 1\nrequires-python = "==3.12.*"\n'
    lock = read_text(tmp_path, "uv.lock", lock_of('{ name = "a" }', package("a", "1"), head=head))
    assert "environments have Python 3.11.7" in reasons(lock)["Python ==3.12.*"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = 2\n", "lock version 2 is newer than is known here"),
        ("version = 1\n", "package: field required"),
        ('version = 1\n[[package]]\nname = "x"\nversion = "1"\n', "has no project of its own"),
        (lock_of('{ name = "ghost" }'), "ghost: is a dependency, and no package of the lock"),
        (lock_of('{ name = "a", marker = "sys_platform is linux" }', package("a", "1")), "is no environment marker"),
        (lock_of('{ name = "a" }', package("a", "one point two")), "Invalid version"),
        (
            lock_of('{ name = "a" }', package("a", "1", 'sdist = { url = "https://x/a.tar.gz", hash = "sha256:12" }')),
            "is no hash: must have 64 hexadecimal digits",
        ),
        ('version = 1\npackage = "none"\n', "package: "),
    ],
)
def test_a_broken_lock_is_one_clear_error(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        read_text(tmp_path, "uv.lock", text)
    assert said in caught.value.message
    assert "uv.lock" in caught.value.message
