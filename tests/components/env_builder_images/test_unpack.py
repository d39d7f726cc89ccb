"""`images/unpack.py`: equal PEXes give equal bytes, wherever and whenever they are unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.env_builder_images.image_checkout import TOKEN_LABEL, ImageCheckout, docker_client
from images import unpack
from tunewright.env_builder.images.buildkit import find_client
from tunewright.env_builder.images.context import assemble
from tunewright.env_builder.images.targets import find_target


def tree(directory: Path) -> Path:
    """Files, a folder and a link."""
    (directory / "folder").mkdir(parents=True)
    (directory / "folder/module.py").write_text("def f(x):\n    return {x, 'a', 'b', 'c'}\n")
    (directory / "broken.py").write_text("def f(:\n")
    (directory / "link").symlink_to("folder/module.py")
    return directory


def distribution(site: Path, name: str, version: str, *files: str) -> None:
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text("")
    record = site / f"{name}-{version}.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    rows = [*files, f"{name}-{version}.dist-info/RECORD", "../../../bin/program"]
    record.write_text("".join(f"{row},,\n" for row in rows))


def test_everything_gets_one_time_and_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    os.utime(outside, (5, 5))
    made = tree(tmp_path / "tree")
    (made / "away").symlink_to(outside)
    unpack.stamp(made)
    assert {path.lstat().st_mtime for path in [made, *made.rglob("*")]} == {float(unpack.TIME)}
    assert outside.stat().st_mtime == 5


def test_a_distribution_is_what_its_record_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SITE", tmp_path)
    distribution(tmp_path, "heavy_package", "1.0", "heavy/__init__.py", "heavy/deep/file", "heavy_extra.py")
    distribution(tmp_path, "heavy_package_tools", "1.0", "tools.py")
    names = [path.name for path in unpack.installed(["heavy-package", "absent"])]
    assert names == ["heavy", "heavy_extra.py", "heavy_package-1.0.dist-info"]


def test_code_compiles_to_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    compiled = []
    for name, moment in (("first", 1_000_000_000), ("second/deeper", 1_500_000_000)):
        made = tree(tmp_path / name)
        os.utime(made / "folder/module.py", (moment, moment))
        unpack.compile_tree(made)
        (found,) = made.rglob("*.pyc")
        compiled.append((found.relative_to(made), found.read_bytes()))
    assert compiled[0] == compiled[1]
    flags = int.from_bytes(compiled[0][1][4:8], "little")
    assert flags == 1, "hash-based, never checked: whoever runs the image could not write a newer one"
    assert b"/folder/module.py" in compiled[0][1]
    assert str(tmp_path).encode() not in compiled[0][1]


def test_a_base_without_python_311_or_tini_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.version_info", (3, 12, 1))
    with pytest.raises(SystemExit, match=r"lacks Python 3\.11 .* and tini"):
        unpack.refuse_other_bases()


def test_what_is_moved_keeps_its_place(tmp_path: Path) -> None:
    source = tmp_path / "a/b"
    source.mkdir(parents=True)
    (source / "file").write_text("x")
    unpack.move(source, tmp_path / "heavy")
    assert (tmp_path / "heavy" / source.relative_to("/") / "file").read_text() == "x"
    assert not source.exists()


def test_two_builds_without_any_cache_give_the_same_layers(checkout: ImageCheckout) -> None:
    client = find_client()
    assert client is not None
    found = []
    for number, moment in enumerate((1_600_000_000, 1_700_000_001)):
        context = packed(checkout, f"context-{number}", moment)
        iid_file = checkout.seen / f"iid-{number}"
        arguments = (
            "--no-cache",
            "--network=none",
            f"--iidfile={iid_file}",
            "--build-arg=BASE_IMAGE=tunewright/base:bookworm",
        )
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        subprocess.run([client, "build", *arguments, str(context)], env=environment, check=True, capture_output=True)
        with docker_client() as docker:
            document = docker.api.inspect_image(iid_file.read_text())
        assert document["Config"]["Labels"][TOKEN_LABEL] == checkout.token
        found.append(document["RootFS"]["Layers"])
    assert found[0] == found[1]
    assert len(found[0]) > 4


def packed(checkout: ImageCheckout, name: str, moment: int) -> Path:
    """The image's context, every file in it written at `moment`."""
    target = find_target(checkout.root, "images/tiny")
    distdir = checkout.root / "dist" / name
    command = [str(checkout.root / "pants"), f"--pants-distdir=dist/{name}", "package", *target.pexes]
    subprocess.run(command, cwd=checkout.root, check=True)
    assemble(target, checkout.root, distdir, None)
    # Linked in: the checkout's own files must not change with it.
    context = checkout.root / "dist" / f"{name}-copied"
    shutil.copytree(distdir, context, symlinks=True)
    for path in context.rglob("*"):
        os.utime(path, (moment, moment), follow_symlinks=False)
    assert json.loads((checkout.seen / "calls").read_text().splitlines()[-1])[-2:] == list(target.pexes)
    return context
