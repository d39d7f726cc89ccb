"""Caches at a URL: two writers and one winner, no torn read, killed uploads, copies that are verified."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers.google_storage import serve_google_storage
from servers.object_store import ObjectStore

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.dataset_copies import fetch_copy, node_cache_directory, open_objects
from tunewright.contracts.datasets import DatasetManifest, read_manifest, verify_cache
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment, NotFound, Unavailable
from tunewright.dataset_cacher.cli import dataset_cacher
from tunewright.dataset_cacher.provide import Provided, provide_dataset
from tunewright.dataset_cacher.storage import objects
from tunewright.dataset_cacher.storage.filling import Fill
from tunewright.dataset_cacher.storage.locks import Holder, KernelLock, Timing, WorkLock
from tunewright.dataset_cacher.storage.objects import Objects, ObjectSlot
from tunewright.dataset_cacher.storage.store import CacheStore


@pytest.fixture
def root(s3: ObjectStore) -> str:
    """The URL of an empty root."""
    bucket = f"test-{os.urandom(8).hex()}"
    s3.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/caches"


def keys_of(s3: ObjectStore, root: str) -> list[str]:
    listed = s3.client().list_objects_v2(Bucket=root.split("/")[2])
    return [one["Key"].removeprefix("caches/") for one in listed.get("Contents", [])]


def provide(bench: Workbench, root: str, home: Path | None = None) -> Provided:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_HOME", str(home or bench.cache_root.parent))
        return provide_dataset(bench.request({"source": "rows.jsonl"}), root)


@pytest.fixture
def made(bench: Workbench) -> Provided:
    """A cache in a directory, to be filled in elsewhere."""
    bench.write("rows.jsonl", [conversation(f"why {number}?", "because") for number in range(50)])
    return bench.provide({"source": "rows.jsonl"})


def copying(source: Path, change: bytes = b"") -> Fill:
    """A `fill` that gives the files of a cache; with `change`, as another version of a library would write one."""

    def fill(directory: Path, _work: Path) -> DatasetManifest:
        manifest = read_manifest(source)
        for record in manifest.files:
            (directory / record.file).write_bytes((source / record.file).read_bytes())
        if not change:
            return manifest
        path = directory / manifest.statistics.file
        path.write_bytes(path.read_bytes() + change)
        return manifest.model_copy(update={"statistics": type(manifest.statistics).of(directory, path.name)})

    return fill


def test_a_cache_at_a_url_is_made_once_found_and_has_the_same_bytes(
    bench: Workbench, s3: ObjectStore, root: str, tmp_path: Path
) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    first = provide(bench, root)
    again = provide(bench, root, home=tmp_path / "another machine")
    assert (first.is_hit, again.is_hit) == (False, True) and again.dataset == first.dataset
    assert first.dataset.path == f"{root}/{first.dataset.digest}"
    local = bench.provide({"source": "rows.jsonl"})
    assert local.dataset.digest == first.dataset.digest
    copy = fetch_copy(first.dataset.path, first.dataset.digest, tmp_path / "node", print)
    assert bytes_below(copy) == bytes_below(Path(local.dataset.path))
    assert f"{first.dataset.digest}/manifest.json" in keys_of(s3, root)


def run_here(*arguments: str) -> str:
    """The command line in this process, which has the storage's package imported already."""
    result = CliRunner().invoke(dataset_cacher, arguments, catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_every_command_takes_a_url(
    bench: Workbench, s3: ObjectStore, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("rows.jsonl", [conversation("why?", "so.")])
    bench.experiment(['source = "rows.jsonl"'])
    digest = json.loads(bench.run("prepare", "experiment.toml", "--cache-root", root, "--json").stdout)["digest"]
    monkeypatch.chdir(bench.project)
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(bench.cache_root.parent))
    monkeypatch.setenv("TUNEWRIGHT_CACHE_ROOT", root)
    assert json.loads(run_here("key", "experiment.toml", "--json"))["prepared"] is True
    assert [one["digest"] for one in json.loads(run_here("list", "--json"))] == [digest]
    assert json.loads(run_here("verify", digest[:8], "--json"))["whole"] is True
    assert "so." in run_here("show", digest[:8])
    run_here("export", digest[:8], "--format", "jsonl", "--to", "out.jsonl")
    assert (bench.project / "out.jsonl").read_text().count("\n") == 1
    assert "the same digest" in run_here("explain", digest[:8], "experiment.toml")
    assert digest[:12] in run_here("gc", "--max-bytes", "0")
    assert [key for key in keys_of(s3, root) if not key.startswith(".locks/")] == []
    assert json.loads(run_here("key", "experiment.toml", "--json"))["prepared"] is False


def test_a_flipped_byte_at_a_url_is_found(made: Provided, root: str, tmp_path: Path, s3: ObjectStore) -> None:
    digest, store = made.dataset.digest, CacheStore.at(root, tmp_path / "home")
    store.build(digest, copying(Path(made.dataset.path)))
    name = f"caches/{digest}/tokens-00000.arrow"
    client, bucket = s3.client(), root.split("/")[2]
    content = bytearray(client.get_object(Bucket=bucket, Key=name)["Body"].read())
    content[len(content) // 2] ^= 1
    client.put_object(Bucket=bucket, Key=name, Body=bytes(content))
    with pytest.raises(CacheCorrupted, match=r"tokens-00000.arrow: sha256 is"):
        store.verify(digest)
    with pytest.raises(CacheCorrupted, match=r"tokens-00000.arrow: sha256 is"):
        fetch_copy(f"{root}/{digest}", digest, tmp_path / "node", print)


def test_of_two_racing_writers_one_wins_and_no_reader_sees_a_torn_cache(
    made: Provided, root: str, tmp_path: Path, s3: ObjectStore
) -> None:
    digest = made.dataset.digest
    barrier, ended = threading.Barrier(2), threading.Event()
    manifests: list[DatasetManifest] = []

    def write(number: int) -> None:  # without the lock: as one does who was taken for dead
        def fill(directory: Path, work: Path) -> DatasetManifest:
            manifest = copying(Path(made.dataset.path), change=b" " * number)(directory, work)
            barrier.wait(20)
            return manifest

        manifests.append(CacheStore.at(root, tmp_path / f"home-{number}").build(digest, fill))

    def read() -> Iterator[bool]:
        for number in range(10_000):
            try:
                copy = fetch_copy(f"{root}/{digest}", digest, tmp_path / f"reader-{number}", lambda _words: None)
                verify_cache(copy)
                yield True
            except NotFound:
                yield False
            if ended.is_set():
                return

    writers = [threading.Thread(target=write, args=[number]) for number in range(2)]
    for writer in writers:
        writer.start()
    seen: list[bool] = []
    reader = threading.Thread(target=lambda: seen.extend(read()))
    reader.start()
    for writer in writers:
        writer.join(40)
    ended.set()
    reader.join(40)
    assert len(manifests) == 2 and manifests[0] == manifests[1]
    assert seen[-1] is True and seen == sorted(seen)
    CacheStore.at(root, tmp_path / "home-3").verify(digest)


def test_an_upload_that_is_killed_is_no_cache_and_the_next_one_ends_it(
    made: Provided, root: str, tmp_path: Path, s3: ObjectStore
) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from components.dataset_cacher.test_roots import copying\n"
        "from tunewright.dataset_cacher.storage.objects import Objects\n"
        "from tunewright.dataset_cacher.storage.store import CacheStore\n"
        "create = Objects.create\n"
        "def killed(self, name, data):\n"
        "    if name.endswith('manifest.json'):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return create(self, name, data)\n"
        "Objects.create = killed\n"
        "store = CacheStore.at(sys.argv[3], Path(sys.argv[4]))\n"
        "with store.lock(sys.argv[1], print):\n"
        "    store.build(sys.argv[1], copying(Path(sys.argv[2]), change=b' another version'))\n"
    )
    digest, home = made.dataset.digest, tmp_path / "home-of-two"
    arguments = [sys.executable, "-c", script, digest, made.dataset.path, root, str(home)]
    environment = {**os.environ, **s3.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = CacheStore.at(root, home)
    assert store.find(digest) is None and store.digests() == []
    assert f"{digest}/statistics.json" in keys_of(s3, root)
    assert [one.is_whole for one in store.stored()] == [False]
    started = time.monotonic()
    with store.lock(digest, print):  # the kernel knows that its holder is dead
        assert time.monotonic() - started < 30, "it waited as for one of another machine, 90 seconds"
        manifest = store.build(digest, copying(Path(made.dataset.path)))
    # What the dead one left was written by another version: it stays as it was, and nothing refers to it.
    assert manifest.statistics.file != "statistics.json"
    assert store.verify(digest) == manifest
    copy = CacheStore.at(root, tmp_path / "other").path_of(digest)
    assert (copy / manifest.statistics.file).read_bytes() == (Path(made.dataset.path) / "statistics.json").read_bytes()


def test_a_holder_on_another_machine_is_waited_for_and_followed_when_it_is_silent(root: str, tmp_path: Path) -> None:
    slot = ObjectSlot(Objects(root), ".locks/some", poll_seconds=0.05)
    holder = replace(Holder.here("another kernel's lock"), host="elsewhere", pid=4711)
    version = slot.create(holder.to_bytes())
    assert version is not None and slot.create(b"{}") is None
    timing = Timing(beat_seconds=0.1, stale_seconds=0.5, settle_seconds=0.05)
    told: list[str] = []
    with WorkLock(KernelLock(tmp_path / "lock"), slot, timing).held(told.append) as lease:
        assert told == [str(holder)]
        assert slot.replace(b"{}", version) is None, "a beat of the one who was taken over"
        time.sleep(0.4)
        assert lease.is_lost is False
    seen = slot.read()
    assert seen is not None
    released = Holder.parse(seen.data)
    assert released is not None and released.is_released
    with WorkLock(KernelLock(tmp_path / "lock"), slot, timing).held_if_free(0.0) as is_free:
        assert is_free


def test_a_copy_is_made_once_and_its_bytes_are_compared(
    made: Provided, root: str, tmp_path: Path, s3: ObjectStore
) -> None:
    digest = made.dataset.digest
    CacheStore.at(root, tmp_path / "home").build(digest, copying(Path(made.dataset.path)))
    told: list[str] = []
    threads = [
        threading.Thread(target=fetch_copy, args=[f"{root}/{digest}", digest, tmp_path / "node", told.append])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1 and bytes_below(tmp_path / "node" / digest) == bytes_below(Path(made.dataset.path))
    client, bucket = s3.client(), root.split("/")[2]
    client.put_object(Bucket=bucket, Key=f"caches/{digest}/packing.arrow", Body=b"torn")
    with pytest.raises(CacheCorrupted, match=r"packing.arrow: has 4 bytes"):
        fetch_copy(f"{root}/{digest}", digest, tmp_path / "other", print)
    assert [path.name for path in (tmp_path / "other").iterdir()] == [f".{digest}.lock"]
    with pytest.raises(CacheCorrupted, match=r"packing.arrow: has 4 bytes"):
        CacheStore.at(root, tmp_path / "home").find(digest)


def test_a_plan_opens_no_socket(bench: Workbench, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    provided = provide(bench, root)
    monkeypatch.setattr(objects, "open_objects", lambda _url: pytest.fail("it opened the storage"))
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(bench.cache_root.parent))
    planned = provide_dataset(bench.request({"source": "rows.jsonl"}, plan_only=True), root)
    assert planned.is_hit and planned.dataset == provided.dataset


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/caches", "must be a directory, or a URL with s3:// or gs://"),
        ("s3://key:secret@bucket/caches", "must not hold a password"),
    ],
)
def test_a_root_of_another_kind_is_refused_in_words(url: str, words: str, bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidExperiment, match=words) as caught:
        provide_dataset(bench.request({"source": "rows.jsonl"}), url)
    assert "secret@" not in str(caught.value)


def test_a_storage_that_does_not_answer_or_has_no_bucket_is_said(bench: Workbench, s3: ObjectStore) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(Unavailable, match="there is no such bucket"):
        provide(bench, "s3://no-such-bucket/caches")


def test_another_users_directory_for_copies_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert node_cache_directory() == tmp_path / f"tunewright-{os.getuid()}" / "datasets"
    (tmp_path / f"tunewright-{os.getuid()}").rmdir()
    (tmp_path / f"tunewright-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(Unavailable, match="belongs to another user"):
        node_cache_directory()
    monkeypatch.setenv("TUNEWRIGHT_NODE_CACHE", str(tmp_path / "mine"))
    assert node_cache_directory() == tmp_path / "mine"


def test_opening_a_url_imports_its_package_only_then() -> None:
    script = (
        "import sys\nimport tunewright.dataset_cacher.storage.store, tunewright.dataset_cacher.storage.url_store\n"
        "import tunewright.contracts.dataset_copies\n"
        "sys.exit(str({'fsspec', 's3fs', 'gcsfs'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == ""
    assert open_objects("s3://bucket/some/where/")[1] == "bucket/some/where"


@pytest.fixture
def google_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty root in another kind of store."""
    from gcsfs import GCSFileSystem

    with serve_google_storage() as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        GCSFileSystem.clear_instance_cache()
        yield "gs://bucket/caches"
        GCSFileSystem.clear_instance_cache()


def test_a_cache_at_googles_store_is_made_once_found_verified_and_removed(
    made: Provided, google_root: str, tmp_path: Path
) -> None:
    digest, store = made.dataset.digest, CacheStore.at(google_root, tmp_path / "home")
    with store.lock(digest, print):
        assert store.find(digest) is None
        manifest = store.build(digest, copying(Path(made.dataset.path)))
    other = CacheStore.at(google_root, tmp_path / "another machine")
    assert other.find(digest) == other.verify(digest) == manifest == read_manifest(Path(made.dataset.path))
    assert other.build(digest, copying(Path(made.dataset.path), change=b" ")) == manifest
    assert bytes_below(other.path_of(digest)) == bytes_below(Path(made.dataset.path))
    assert other.digests() == [digest] and other.remove(digest) and other.stored() == []


def test_googles_store_gives_a_lock_to_one(google_root: str) -> None:
    slot = ObjectSlot(Objects(google_root), ".locks/some")
    first = slot.create(b"one")
    assert first is not None and slot.create(b"two") is None
    second = slot.replace(b"three", first)
    assert second is not None and second != first
    assert slot.replace(b"four", first) is None
    seen = slot.read()
    assert seen is not None and (seen.data, seen.version) == (b"three", second)
