"""Models laid out for an image: what is there, that it is the same everywhere, and that nothing unverified gets in."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import huggingface_hub
import pytest
from servers.model_hub import blob_name

from components.env_builder_models.hosted import (
    CONFIG,
    FILES,
    MODEL_ID,
    TAKEN,
    WEIGHTS,
    Workbench,
    make_sharded,
    read_tree,
)
from tunewright.contracts.errors import IntegrityError, NotFound, PreflightFailed, UsageError
from tunewright.env_builder.models.layout import ModelPlace
from tunewright.env_builder.models.manifest import list_models, verify_model
from tunewright.env_builder.models.pins import LocalModel, ModelPin
from tunewright.env_builder.models.staging import StagedModels, models_digest, stage_models


def stage(bench: Workbench, commits: list[str], destination: Path, *local: LocalModel) -> StagedModels:
    return stage_models(bench.home, [*(ModelPin(MODEL_ID, commit) for commit in commits), *local], destination)


def entries(root: Path) -> list[tuple[str, str, int, float, bytes]]:
    """All that a layer of an image would hold, in order: path, link text, mode, time, content."""
    found = []
    for path in sorted([root, *root.rglob("*")]):
        state = path.lstat()
        link = os.readlink(path) if path.is_symlink() else ""
        content = path.read_bytes() if path.is_file() and not link else b""
        found.append((path.relative_to(root).as_posix(), link, state.st_mode, state.st_mtime, content))
    return found


@pytest.fixture
def commit(bench: Workbench) -> str:
    """A fetched model."""
    made = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(made)
    return made


def test_a_staged_model_is_found_offline_by_id_and_commit_and_by_id_alone(
    bench: Workbench, commit: str, tmp_path: Path
) -> None:
    staged = stage(bench, [commit], tmp_path / "hub")
    for revision in (commit, None):
        found = huggingface_hub.snapshot_download(
            MODEL_ID, revision=revision, cache_dir=tmp_path / "hub", local_files_only=True
        )
        assert read_tree(Path(found)) == {name: FILES[name] for name in TAKEN}
    (model,) = staged.models
    assert (model.model_id, model.commit, model.num_files) == (MODEL_ID, commit, len(TAKEN))
    assert model.bytes == sum(len(FILES[name]) for name in TAKEN)


def test_links_are_relative_and_blobs_are_files(bench: Workbench, commit: str, tmp_path: Path) -> None:
    stage(bench, [commit], tmp_path / "hub")
    shutil.rmtree(bench.home)
    (tmp_path / "hub").rename(tmp_path / "moved")
    place = ModelPlace(tmp_path / "moved", MODEL_ID, commit)
    assert read_tree(place.snapshot) == {name: FILES[name] for name in TAKEN}
    assert all(path.is_symlink() for path in place.snapshot.iterdir())
    assert not any(path.is_symlink() for path in place.blobs.iterdir())


def test_two_fetches_on_two_machines_give_the_same_layer(bench: Workbench, commit: str, tmp_path: Path) -> None:
    other = Workbench(bench.hub, tmp_path / "other")
    other.fetch(commit)
    os.utime(other.place(commit).blob(blob_name("model.safetensors", WEIGHTS)), (1, 1))
    one = stage(bench, [commit], tmp_path / "one")
    old = os.umask(0o077)
    try:
        two = stage(other, [commit], tmp_path / "two")
    finally:
        os.umask(old)
    assert entries(tmp_path / "one") == entries(tmp_path / "two")
    assert one.digest == two.digest
    assert one.models == two.models


def test_every_mode_and_time_is_fixed(bench: Workbench, commit: str, tmp_path: Path) -> None:
    stage(bench, [commit], tmp_path / "hub")
    for path in [tmp_path / "hub", *(tmp_path / "hub").rglob("*")]:
        state = path.lstat()
        assert state.st_mtime == 315532800, path
        if not path.is_symlink():
            assert stat.S_IMODE(state.st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_files_are_hard_links_into_the_store_and_cost_no_space(bench: Workbench, commit: str, tmp_path: Path) -> None:
    stage(bench, [commit], tmp_path / "hub")
    name = blob_name("model.safetensors", WEIGHTS)
    staged = ModelPlace(tmp_path / "hub", MODEL_ID, commit).blob(name)
    assert staged.samefile(bench.place(commit).blob(name))


def test_what_was_staged_vouches_for_itself(bench: Workbench, commit: str, tmp_path: Path) -> None:
    stage(bench, [commit], tmp_path / "hub")
    (manifest,) = list_models(tmp_path / "hub")
    place = ModelPlace(tmp_path / "hub", MODEL_ID, commit)
    assert verify_model(place) == manifest
    assert (manifest.fetched_at, manifest.endpoint) == (None, None)
    (place.snapshot / "extra.bin").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"extra\.bin: is not of the model"):
        verify_model(place)


def test_of_two_commits_both_are_there_and_none_is_meant_by_the_id_alone(
    bench: Workbench, commit: str, tmp_path: Path
) -> None:
    second = bench.hub.add(MODEL_ID, {**FILES, "config.json": CONFIG + b" "})
    bench.fetch(second)
    stage(bench, [commit, second], tmp_path / "hub")
    for one in (commit, second):
        assert verify_model(ModelPlace(tmp_path / "hub", MODEL_ID, one))
    assert not ModelPlace(tmp_path / "hub", MODEL_ID, commit).main.exists()


def test_the_digest_is_known_beforehand_and_does_not_depend_on_the_order(
    bench: Workbench, commit: str, tmp_path: Path
) -> None:
    second = bench.hub.add(MODEL_ID, {**FILES, "config.json": CONFIG + b" "})
    bench.fetch(second)
    pins = [ModelPin(MODEL_ID, commit), ModelPin(MODEL_ID, second)]
    staged = stage_models(bench.home, pins, tmp_path / "hub")
    assert models_digest(bench.home, pins) == models_digest(bench.home, pins[::-1]) == staged.digest
    assert models_digest(bench.home, pins[:1]) != staged.digest


def test_a_damaged_model_gets_into_no_image(bench: Workbench, commit: str, tmp_path: Path) -> None:
    blob = bench.place(commit).blob(blob_name("model.safetensors", WEIGHTS))
    blob.write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(IntegrityError, match=str(blob)):
        stage(bench, [commit], tmp_path / "hub")
    assert not (tmp_path / "hub").exists()
    assert [path.name for path in tmp_path.iterdir() if "hub" in path.name] == []


def test_a_model_that_was_not_fetched_is_not_found(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="fetch-model"):
        stage(bench, ["f" * 40], tmp_path / "hub")
    with pytest.raises(NotFound):
        models_digest(bench.home, [ModelPin(MODEL_ID, "f" * 40)])


def test_a_destination_that_holds_something_is_left_alone(bench: Workbench, commit: str, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    stage(bench, [commit], tmp_path / "hub")
    before = entries(tmp_path / "hub")
    with pytest.raises(UsageError, match="is not empty"):
        stage(bench, [commit], tmp_path / "hub")
    assert entries(tmp_path / "hub") == before


def test_a_model_wanted_twice_is_refused(bench: Workbench, commit: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="wanted twice"):
        stage(bench, [commit, commit], tmp_path / "hub")


# Directories that get a name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model as `save_pretrained` leaves it, with what a trainer leaves beside it."""
    root = tmp_path / "runs" / "first" / "model"
    root.mkdir(parents=True)
    for name, content in {**make_sharded(), "README.md": b"# Ours\n", "training_args.bin": b"pickle"}.items():
        (root / name).write_bytes(content)
    return root


def test_a_finished_runs_model_is_staged_under_a_name(bench: Workbench, directory: Path, tmp_path: Path) -> None:
    staged = stage(bench, [], tmp_path / "hub", LocalModel("ours/first", directory))
    (model,) = staged.models
    for revision in (model.commit, None):
        found = huggingface_hub.snapshot_download(
            "ours/first", revision=revision, cache_dir=tmp_path / "hub", local_files_only=True
        )
        assert read_tree(Path(found)) == {**make_sharded(), "README.md": b"# Ours\n"}
    manifest = verify_model(ModelPlace(tmp_path / "hub", "ours/first", model.commit))
    assert [one.file for one in manifest.left_out] == ["training_args.bin"]
    assert manifest.source == "directory"


def test_the_commit_of_a_directory_is_its_content(bench: Workbench, directory: Path, tmp_path: Path) -> None:
    first = stage(bench, [], tmp_path / "one", LocalModel("ours/first", directory))
    os.utime(directory / "config.json", (5, 5))
    (directory / "training_args.bin").write_bytes(b"another")
    same = stage(bench, [], tmp_path / "two", LocalModel("ours/first", directory))
    (directory / "config.json").write_bytes(CONFIG + b" ")
    other = stage(bench, [], tmp_path / "three", LocalModel("ours/first", directory))
    assert first.models == same.models
    assert first.models[0].commit != other.models[0].commit
    assert models_digest(bench.home, [LocalModel("ours/first", directory)]) == other.digest


def test_the_users_own_files_are_copied_and_not_touched(bench: Workbench, directory: Path, tmp_path: Path) -> None:
    (directory / "config.json").chmod(0o600)
    before = entries(directory)
    staged = stage(bench, [], tmp_path / "hub", LocalModel("ours/first", directory))
    assert entries(directory) == before
    place = ModelPlace(tmp_path / "hub", "ours/first", staged.models[0].commit)
    assert not (place.snapshot / "config.json").samefile(directory / "config.json")


def test_a_directory_with_a_torn_file_gets_into_no_image(bench: Workbench, directory: Path, tmp_path: Path) -> None:
    path = directory / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model-00002-of-00003\.safetensors: is not a whole"):
        stage(bench, [], tmp_path / "hub", LocalModel("ours/first", directory))
    path.unlink()
    with pytest.raises(IntegrityError, match=r"names files that the model does not have"):
        stage(bench, [], tmp_path / "two", LocalModel("ours/first", directory))


def test_a_directory_that_is_no_model_is_told(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such directory"):
        stage(bench, [], tmp_path / "hub", LocalModel("ours/first", tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no file that a model is loaded from"):
        stage(bench, [], tmp_path / "hub", LocalModel("ours/first", tmp_path / "empty"))
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "config.json").write_text(json.dumps({}))
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(PreflightFailed, match="has no weights in safetensors"):
        stage(bench, [], tmp_path / "hub", LocalModel("ours/first", tmp_path / "pickles"))
