"""A model of the hub into the store: what comes, what does not, what happens when it breaks off."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from servers.model_hub import TOKEN, blob_name

from components.env_builder_models.hosted import (
    CONFIG,
    FILES,
    MODEL_ID,
    TAKEN,
    WEIGHTS,
    Workbench,
    make_safetensors,
    make_sharded,
    read_tree,
)
from tunewright.contracts.errors import IntegrityError, NotFound, PreflightFailed, Unavailable, UsageError
from tunewright.env_builder.models.fetch import FetchedModel, ensure_model
from tunewright.env_builder.models.hub import HubClient
from tunewright.env_builder.models.manifest import digest_of_files, read_manifest, verify_model
from tunewright.env_builder.models.pins import ModelPin
from tunewright.env_builder.models.selection import Permissions

UNKNOWN_COMMIT = "f" * 40
BIG = make_safetensors({"embed": (512, 1024)})
"""2 MB: in several blocks."""


def test_what_comes_is_what_the_hub_has_without_pickles_and_code(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    fetched = bench.fetch(commit)
    assert bench.content(commit) == {name: FILES[name] for name in TAKEN}
    assert not fetched.was_there
    assert fetched.fetched_bytes == sum(len(FILES[name]) for name in TAKEN)
    assert all(name not in bench.hub.served for name in set(FILES) - set(TAKEN))


def test_the_manifest_names_every_file_with_its_digest_and_what_was_left_out(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    manifest = bench.fetch(commit).manifest
    assert manifest == read_manifest(bench.place(commit))
    assert [file.file for file in manifest.files] == TAKEN
    for file in manifest.files:
        assert (file.sha256, file.bytes) == (hashlib.sha256(FILES[file.file]).hexdigest(), len(FILES[file.file]))
    assert {one.file: one.reason for one in manifest.left_out} == {
        ".gitattributes": "not-needed",
        "modeling_small.py": "code",
        "onnx/model.onnx": "other-framework",
        "picture.png": "not-needed",
        "pytorch_model.bin": "unsafe-weights",
    }
    assert (manifest.endpoint, manifest.hub_library) == (bench.hub.address, huggingface_hub.__version__)


def test_the_digest_does_not_depend_on_place_time_or_order(bench: Workbench, tmp_path: Path) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    first = bench.fetch(commit).manifest
    second = Workbench(bench.hub, tmp_path / "elsewhere").fetch(commit).manifest
    assert first.digest == second.digest == digest_of_files(reversed(first.files))
    changed = bench.hub.add(MODEL_ID, {**FILES, "config.json": CONFIG + b" "})
    assert bench.fetch(changed).manifest.digest != first.digest


def test_the_layout_is_the_one_the_hubs_own_library_makes(bench: Workbench, tmp_path: Path) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    theirs = tmp_path / "theirs"
    huggingface_hub.snapshot_download(
        MODEL_ID, revision=commit, cache_dir=theirs, allow_patterns=TAKEN, endpoint=bench.hub.address
    )
    repository = bench.place(commit).repository
    for part in ("blobs", f"snapshots/{commit}"):
        assert read_tree(repository / part) == read_tree(theirs / repository.name / part)
    for name in TAKEN:
        link = Path("snapshots") / commit / name
        assert os.readlink(repository / link) == os.readlink(theirs / repository.name / link)


def test_the_hubs_own_library_finds_it_by_id_and_commit_without_a_network(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    bench.hub.close()
    hub = bench.place(commit).hub
    found = huggingface_hub.snapshot_download(MODEL_ID, revision=commit, cache_dir=hub, local_files_only=True)
    assert read_tree(Path(found)) == {name: FILES[name] for name in TAKEN}


def test_a_second_call_does_nothing_and_needs_no_hub(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    first = bench.fetch(commit)
    num_calls = len(bench.hub.calls)
    bench.hub.close()
    second = ensure_model(bench.home, ModelPin(MODEL_ID, commit), Permissions(), bench.notes, _no_client)
    assert second == FetchedModel(first.manifest, first.place, 0, was_there=True)
    assert len(bench.hub.calls) == num_calls


def _no_client() -> HubClient:
    raise AssertionError("the network was used")


def test_a_permission_given_later_fetches_only_what_it_allows(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    bench.hub.served.clear()
    fetched = bench.fetch(commit, unsafe_weights=True)
    assert dict(bench.hub.served) == {"pytorch_model.bin": len(FILES["pytorch_model.bin"])}
    bench.fetch(commit, unsafe_weights=True, code=True)
    assert set(bench.content(commit)) == {*TAKEN, "pytorch_model.bin", "modeling_small.py"}
    assert fetched.fetched_bytes == len(FILES["pytorch_model.bin"])
    assert bench.fetch(commit).was_there


def test_a_permission_whose_fetch_fails_leaves_what_was_there(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    first = bench.fetch(commit).manifest
    bench.hub.fail(500, times=9, name="pytorch_model.bin")
    with pytest.raises(Unavailable):
        bench.fetch(commit, unsafe_weights=True)
    assert verify_model(bench.place(commit)) == first
    assert bench.fetch(commit).was_there


def test_two_commits_share_what_they_have_in_common(bench: Workbench) -> None:
    first = bench.hub.add(MODEL_ID, FILES)
    second = bench.hub.add(MODEL_ID, {**FILES, "config.json": CONFIG + b" "})
    bench.fetch(first)
    bench.hub.served.clear()
    bench.fetch(second)
    assert set(bench.hub.served) == {"config.json"}
    assert bench.content(first)["config.json"] == CONFIG
    assert bench.content(second)["config.json"] == CONFIG + b" "


def test_one_content_under_two_names_is_fetched_once(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "a/config.json": CONFIG, "model.safetensors": WEIGHTS})
    fetched = bench.fetch(commit)
    assert bench.hub.served["config.json"] + bench.hub.served["a/config.json"] == len(CONFIG)
    assert bench.content(commit)["a/config.json"] == CONFIG
    assert fetched.fetched_bytes == len(CONFIG) + len(WEIGHTS)


def test_a_model_in_several_files_comes_whole(bench: Workbench) -> None:
    files = make_sharded()
    commit = bench.hub.add("gpt2", files)
    bench.fetch(commit, model_id="gpt2")
    assert bench.content(commit, "gpt2") == files


def test_files_have_a_mode_and_a_time_that_do_not_tell_when_they_came(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    for blob in bench.place(commit).blobs.iterdir():
        assert (stat.S_IMODE(blob.stat().st_mode), blob.stat().st_mtime) == (0o644, 315532800)


# What breaks off


def test_a_connection_lost_in_mid_file_is_taken_up_where_it_ended(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.cuts["model.safetensors"] = [700_000, 300_000]
    bench.fetch(commit)
    assert bench.content(commit)["model.safetensors"] == BIG
    assert bench.hub.served["model.safetensors"] == len(BIG)
    starts = [call.start for call in bench.hub.calls if call.path.startswith("/large/")]
    assert starts == [0, 700_000, 1_000_000]
    assert "trying again" in str(bench.notes)


def test_a_line_that_keeps_breaking_is_not_given_up_while_bytes_come(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.cuts["model.safetensors"] = [200_000] * (3 * bench.client().retry.attempts)
    bench.fetch(commit)
    assert bench.hub.served["model.safetensors"] == len(BIG)


def test_the_next_call_goes_on_where_the_last_one_gave_up(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.cuts["model.safetensors"] = [1_500_000, 0, 0, 0]
    with pytest.raises(Unavailable, match=r"model\.safetensors") as caught:
        bench.fetch(commit)
    assert "the same command goes on from there" in caught.value.hint
    assert not bench.place(commit).snapshot.exists()
    assert read_manifest(bench.place(commit)) is None
    bench.notes.came_bytes = 0
    fetched = bench.fetch(commit)
    assert bench.hub.served["model.safetensors"] == len(BIG)
    assert fetched.fetched_bytes == bench.notes.came_bytes == len(BIG) - 1_500_000
    assert bench.notes.there_bytes == len(CONFIG) + 1_500_000
    assert bench.content(commit)["model.safetensors"] == BIG


def test_a_killed_fetch_leaves_nothing_that_looks_whole_and_is_gone_on_with(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.stalls["model.safetensors"] = 1_000_000
    process = bench.start("fetch-model", MODEL_ID, "--revision", commit)
    incomplete = bench.place(commit).incomplete(blob_name("model.safetensors", BIG))
    wait_for_bytes(incomplete, 900_000)
    process.kill()
    process.communicate()
    kept = incomplete.stat().st_size
    assert kept >= 900_000
    assert read_manifest(bench.place(commit)) is None
    bench.hub.stalls.clear()
    assert bench.fetch(commit).fetched_bytes == len(BIG) - kept
    assert bench.content(commit)["model.safetensors"] == BIG


def test_who_interrupts_it_is_obeyed_and_loses_nothing(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.stalls["model.safetensors"] = 1_000_000
    process = bench.start("fetch-model", MODEL_ID, "--revision", commit, HF_HUB_DOWNLOAD_TIMEOUT="1")
    incomplete = bench.place(commit).incomplete(blob_name("model.safetensors", BIG))
    wait_for_bytes(incomplete, 900_000)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted")
    assert incomplete.stat().st_size >= 900_000


def wait_for_bytes(path: Path, num_bytes: int) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if path.exists() and path.stat().st_size >= num_bytes:
            return
        pause.wait(0.02)
    raise AssertionError(f"{path} did not grow")


def test_a_hub_that_ignores_ranges_costs_bytes_and_never_a_wrong_file(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.ignores_ranges = True
    bench.hub.cuts["model.safetensors"] = [1_000_000]
    bench.fetch(commit)
    assert bench.content(commit)["model.safetensors"] == BIG
    assert bench.notes.came_bytes == len(CONFIG) + len(BIG)


def test_a_part_that_was_torn_by_a_power_cut_is_fetched_anew(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    place = bench.place(commit)
    place.blobs.mkdir(parents=True)
    place.incomplete(blob_name("model.safetensors", BIG)).write_bytes(bytes(500_000))
    bench.fetch(commit)
    assert bench.content(commit)["model.safetensors"] == BIG
    assert "fetched anew" in str(bench.notes)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_hub_in_trouble_is_asked_again(status: int, bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.fail(status, times=2)
    bench.hub.fail(status, times=2, name="config.json")
    bench.fetch(commit)
    assert str(bench.notes).count(f"the hub answered {status}") == 4


def test_a_hub_that_says_when_to_come_back_is_obeyed_within_limits(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.fail(429, Retry_After="3600")
    bench.fetch(commit)
    waits = bench.client().retry
    assert waits.wait_seconds(1, 3600.0) == waits.longest_wait_seconds
    assert waits.wait_seconds(2, None) == 2 * waits.first_wait_seconds
    assert waits.wait_seconds(1, 0.03) == 0.03


def test_a_hub_that_stays_in_trouble_is_given_up_in_words(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.fail(503, times=99)
    with pytest.raises(Unavailable, match=f"{bench.hub.address} could not be reached.*503.*tried 3 times"):
        bench.fetch(commit)
    assert len(bench.hub.calls) == 3
    assert not bench.home.exists()


def test_a_hub_that_is_not_there_is_told_in_words(bench: Workbench) -> None:
    bench.hub.close()
    with pytest.raises(Unavailable, match="could not be reached") as caught:
        bench.fetch(UNKNOWN_COMMIT)
    assert "HF_ENDPOINT" in caught.value.hint
    assert not bench.home.exists()


def test_what_answers_and_is_no_hub_is_told_in_words(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.fail(200)
    with pytest.raises(Unavailable, match="does not answer as a model hub does"):
        bench.fetch(commit)
    client = HubClient(endpoint="hub.example.org")
    with pytest.raises(UsageError, match="HF_ENDPOINT: must begin with"):
        ensure_model(bench.home, ModelPin(MODEL_ID, commit), Permissions(), bench.notes, lambda: client)


def test_offline_mode_is_named_as_the_cause(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE is set"):
        bench.fetch(UNKNOWN_COMMIT)


# What is not there, and what is not for everyone


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_model_that_the_hub_does_not_have_is_not_found(
    token: str | None, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NotFound, match="no such model, or a private one") as caught:
        bench.fetch(UNKNOWN_COMMIT, model_id="makers/smal")
    assert "huggingface.co/makers/smal" in caught.value.hint
    assert not bench.home.exists()


def test_a_commit_that_the_model_does_not_have_is_not_found(bench: Workbench) -> None:
    bench.hub.add(MODEL_ID, FILES)
    with pytest.raises(NotFound, match=f"has no commit {UNKNOWN_COMMIT}"):
        bench.fetch(UNKNOWN_COMMIT)


def test_a_branch_that_is_named_like_a_commit_is_refused(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.models[MODEL_ID][UNKNOWN_COMMIT] = bench.hub.models[MODEL_ID][commit]
    bench.hub.shas[UNKNOWN_COMMIT] = commit
    with pytest.raises(NotFound, match=f"is a branch or a tag, of commit {commit}"):
        bench.fetch(UNKNOWN_COMMIT)


def test_a_gated_model_says_whose_terms_and_what_token(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.gated.add(MODEL_ID)
    with pytest.raises(Unavailable, match="accepted its terms, and not without a token") as caught:
        bench.fetch(commit)
    assert "HF_TOKEN" in caught.value.hint
    assert f"https://huggingface.co/{MODEL_ID}" in caught.value.hint


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_without_a_reason_is_told_with_what_to_do(status: int, bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.fail(status, times=9, name="config.json")
    with pytest.raises(Unavailable, match=f"the hub answered {status}") as caught:
        bench.fetch(commit)
    assert "HF_TOKEN" in caught.value.hint


def test_a_token_opens_what_is_gated_and_is_found_nowhere_afterwards(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    bench.hub.gated.add(MODEL_ID)
    bench.hub.cuts["model.safetensors"] = [1000]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    bench.fetch(commit)
    for call in bench.hub.calls:
        # The content network must not see it.
        assert (call.authorization is None) == call.path.startswith("/large/"), call
    left = b"".join(path.read_bytes() for path in bench.home.rglob("*") if path.is_file())
    assert TOKEN.encode() not in left
    assert b"Signature" not in left
    assert TOKEN not in str(bench.notes)
    assert "Signature" not in str(bench.notes)


def test_a_wrong_token_is_told_and_not_shown(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(Unavailable, match="with the token it was given") as caught:
        bench.fetch(commit)
    assert "hf_wrong" not in str(caught.value)


def test_credentials_in_the_hubs_address_are_not_written_down() -> None:
    assert (
        HubClient(endpoint="https://user:secret@mirror.example:8443/hub").address == "https://mirror.example:8443/hub"
    )


# What is not whole


def test_a_file_that_is_not_what_was_announced_is_thrown_away_and_named(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.served_instead["config.json"] = CONFIG[:-1] + b"!"
    with pytest.raises(IntegrityError, match=r"config\.json is not what the hub announced \(git id"):
        bench.fetch(commit)
    place = bench.place(commit)
    assert not place.blob(blob_name("config.json", CONFIG)).exists()
    assert not place.incomplete(blob_name("config.json", CONFIG)).exists()
    assert read_manifest(place) is None
    bench.hub.served_instead.clear()
    bench.fetch(commit)
    assert verify_model(place)


def test_weights_that_are_not_what_was_announced_are_named_by_their_sha256(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.served_instead["model.safetensors"] = WEIGHTS[:-1] + b"!"
    with pytest.raises(IntegrityError, match=r"model\.safetensors is not what the hub announced \(sha256"):
        bench.fetch(commit)


def test_a_file_that_does_not_end_is_stopped(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.served_instead["config.json"] = CONFIG + bytes(1000)
    with pytest.raises(IntegrityError, match=r"config\.json goes on after"):
        bench.fetch(commit)


def test_weights_that_were_torn_before_they_reached_the_hub_are_named(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": WEIGHTS[:-100]})
    with pytest.raises(IntegrityError, match=r"model\.safetensors: is not a whole safetensors file"):
        bench.fetch(commit)
    assert not bench.place(commit).snapshot.exists()


def test_a_shard_that_is_missing_is_known_before_the_others_are_fetched(bench: Workbench) -> None:
    files = make_sharded()
    del files["model-00002-of-00003.safetensors"]
    commit = bench.hub.add(MODEL_ID, files)
    with pytest.raises(IntegrityError, match=r"model-00002-of-00003\.safetensors"):
        bench.fetch(commit)
    assert not any(name.endswith(".safetensors") for name in bench.hub.served)


def test_a_model_with_nothing_but_pickles_is_refused_before_anything_is_fetched(bench: Workbench) -> None:
    files = {"config.json": CONFIG, "pytorch_model.bin": b"pickle"}
    commit = bench.hub.add(MODEL_ID, files)
    with pytest.raises(PreflightFailed, match="--allow-unsafe-weights"):
        bench.fetch(commit)
    assert not bench.hub.served
    assert not bench.home.exists()
    bench.fetch(commit, unsafe_weights=True)
    assert bench.content(commit) == files


def test_a_repository_without_a_model_is_refused(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {".gitattributes": b"", "a.png": b""})
    with pytest.raises(PreflightFailed, match="no file that a model is loaded from"):
        bench.fetch(commit)


def test_a_name_that_leads_out_of_the_model_is_refused(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {**FILES, "../../escaped.json": b"{}"})
    with pytest.raises(IntegrityError, match="would not stay in its directory"):
        bench.fetch(commit)
    assert not bench.home.exists()


# Disks


def test_a_model_larger_than_the_disk_is_refused_before_it_starts(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.hub.announced_bytes["model.safetensors"] = 10**17
    with pytest.raises(PreflightFailed, match=r"needs 100000\.0 TB more.* are free \[model-disk-space\]"):
        bench.fetch(commit)
    assert not bench.hub.served
    assert not bench.home.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full: /dev/full")
def test_a_disk_that_fills_up_is_told_in_words(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    place = bench.place(commit)
    place.blobs.mkdir(parents=True)
    place.incomplete(blob_name("model.safetensors", BIG)).symlink_to("/dev/full")
    with pytest.raises(Unavailable, match=r"the disk of .* is full") as caught:
        bench.fetch(commit)
    assert "goes on from there" in caught.value.hint
    assert read_manifest(place) is None


# What is damaged afterwards, and several at once


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "link", "stranger"])
def test_verify_names_what_differs_and_the_next_fetch_repairs_it(damage: str, bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    place = bench.place(commit)
    assert verify_model(place).size_bytes == sum(len(FILES[name]) for name in TAKEN)
    blob = place.blob(blob_name("model.safetensors", WEIGHTS))
    named = blob
    if damage == "changed":
        blob.write_bytes(WEIGHTS[:-1] + b"!")
    elif damage == "shortened":
        blob.write_bytes(WEIGHTS[:-1])
    elif damage == "removed":
        blob.unlink()
    elif damage == "link":
        named = place.snapshot / "model.safetensors"
        named.unlink()
        named.symlink_to("config.json")
    else:
        named = place.snapshot / "deep" / "modeling.py"
        named.parent.mkdir()
        named.write_text("import os")
    with pytest.raises(IntegrityError) as caught:
        verify_model(place)
    assert str(named) in caught.value.message
    named.unlink(missing_ok=True)
    bench.fetch(commit)
    assert verify_model(place)


def test_a_damaged_model_is_not_vouched_for_while_it_is_repaired(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    bench.place(commit).blob(blob_name("model.safetensors", WEIGHTS)).unlink()
    bench.hub.fail(500, times=9, name="model.safetensors")
    with pytest.raises(Unavailable):
        bench.fetch(commit)
    assert read_manifest(bench.place(commit)) is None


def test_a_blob_that_was_shortened_is_fetched_again_without_being_removed(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    blob = bench.place(commit).blob(blob_name("model.safetensors", WEIGHTS))
    blob.write_bytes(WEIGHTS[:1000])
    bench.hub.served.clear()
    bench.fetch(commit)
    assert dict(bench.hub.served) == {"model.safetensors": len(WEIGHTS)}
    assert bench.content(commit)["model.safetensors"] == WEIGHTS


def test_a_manifest_that_was_changed_vouches_for_nothing(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, FILES)
    bench.fetch(commit)
    path = bench.place(commit).manifest
    document = json.loads(path.read_text())
    document["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="do not give its digest"):
        verify_model(bench.place(commit))
    path.write_text("{}")
    with pytest.raises(IntegrityError, match="is not a model's manifest"):
        verify_model(bench.place(commit))


def test_a_model_that_was_not_fetched_is_not_found_with_how_to_fetch_it(bench: Workbench) -> None:
    with pytest.raises(NotFound) as caught:
        verify_model(bench.place(UNKNOWN_COMMIT))
    assert caught.value.hint == f"fetch it: env-builder fetch-model {MODEL_ID} --revision {UNKNOWN_COMMIT}"


def test_two_at_once_fetch_it_once(bench: Workbench) -> None:
    commit = bench.hub.add(MODEL_ID, {"config.json": CONFIG, "model.safetensors": BIG})
    results: list[FetchedModel] = []
    threads = [threading.Thread(target=lambda: results.append(bench.fetch(commit))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.was_there for result in results) == [False, True, True]
    assert bench.hub.served["model.safetensors"] == len(BIG)
