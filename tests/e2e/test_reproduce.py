"""A run again from its record alone, in a fresh clone: the same bytes; with one row changed the field is named."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e2e.packaged import Project


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Project:
    """What somebody has who was sent a record: a clone, and an empty home."""
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(root)], check=True)
    return replace(project, root=root, home=tmp_path / "home")


def test_the_quickstart_is_the_same_again_from_its_record_alone(
    project: Project, quickstart: dict[str, Any], clone: Project, tmp_path: Path
) -> None:
    record = tmp_path / "provenance.json"
    shutil.copyfile(quickstart["record"], record)
    out = clone.launcher("reproduce", str(record), "--json").stdout
    document = json.loads(out.splitlines()[-1])
    assert document["same"] is True and document["run"] == "quickstart-reproduced"
    assert clone.model_bytes("quickstart-reproduced") == project.model_bytes(quickstart["run"])
    compared = {one["field"] for one in document["compared"] if one["same"]}
    assert {"model/model.safetensors", "metrics.losses_sha256", "data.digest", "environment.key"} <= compared
    verified = json.loads(clone.launcher("verify", "quickstart-reproduced", "--json").stdout)
    assert verified["complete"] is True and verified["counts"]["found"] > 35


def test_one_changed_row_is_refused_by_its_field_before_anything_is_made(
    quickstart: dict[str, Any], clone: Project
) -> None:
    source = clone.root / "examples" / "data" / "stdlib.jsonl"
    lines = source.read_text().splitlines(keepends=True)
    assert "the" in lines[100]
    lines[100] = lines[100].replace("the", "thee", 1)
    source.write_text("".join(lines))
    result = clone.launcher("reproduce", quickstart["record"], expect=65)
    assert "dataset.mix[0].source: examples/data/stdlib.jsonl: sha256 is" in result.stderr
    assert not clone.home.exists()


def test_verify_names_a_file_of_the_model_that_was_changed(project: Project, quickstart: dict[str, Any]) -> None:
    weights = Path(quickstart["model_dir"]) / "model.safetensors"
    good = weights.read_bytes()
    try:
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        result = project.launcher("verify", quickstart["run"], expect=65)
        assert "model/model.safetensors: differs" in result.stderr
    finally:
        weights.write_bytes(good)
    project.launcher("verify", quickstart["run"])
