"""Where a memory control group is looked for. The kernel's part is in test_backend; version 2 is laid out in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunewright.clusters.local import supervisor
from tunewright.clusters.local.supervisor import ControlGroup, ProcessRow, descendants


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version 2 hierarchy of plain files: /user/session, as systemd gives a login."""
    (tmp_path / "user" / "session").mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    monkeypatch.setattr(supervisor, "CGROUP_ROOT", str(tmp_path))
    return tmp_path


def parents_from(tree: Path, own: str) -> list[str]:
    return [str(Path(path).relative_to(tree)) for path in supervisor._v2_parents(str(tree / own))]


def test_a_sibling_is_tried_where_a_child_cannot_be_bounded(tree: Path) -> None:
    for name in ("user", "user/session"):
        (tree / name / "memory.max").write_text("max\n")
    assert parents_from(tree, "user/session") == ["user/session", "user", "."]


def test_no_limit_of_our_own_group_is_escaped(tree: Path) -> None:
    (tree / "user/session/memory.max").write_text("1073741824\n")
    assert parents_from(tree, "user/session") == ["user/session"]


def test_a_version_2_group_is_bounded_in_memory_and_swap_and_counts_kills(tree: Path) -> None:
    path = tree / "user/job"
    path.mkdir()
    for name in ("memory.max", "memory.swap.max"):
        (path / name).write_text("max\n")
    (path / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
    group = ControlGroup(str(path))
    group.limit(1 << 30)
    assert (path / "memory.max").read_text() == str(1 << 30)
    assert (path / "memory.swap.max").read_text() == "0"
    assert group.num_memory_kills() == 2


def test_a_group_without_the_memory_controller_is_not_used(tree: Path) -> None:
    (tree / "user/job").mkdir()
    assert not ControlGroup(str(tree / "user/job")).has_memory_controller()


def test_a_process_table_that_runs_in_circles_ends() -> None:
    def row(pid: int, parent: int) -> ProcessRow:
        return ProcessRow(pid, [b"S", str(parent).encode(), b"0", b"0", *[b"0"] * 16])

    table = {pid: row(pid, parent) for pid, parent in ((1, 0), (10, 1), (11, 10), (12, 11), (20, 21), (21, 20))}
    assert descendants(10, table) == {11, 12}
    assert descendants(20, table) == {21}
