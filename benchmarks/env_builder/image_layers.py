"""What a change costs an image: seconds to build and push it, and the bytes a registry gets, beside the whole image.

    python3.11 benchmarks/env_builder/image_layers.py [--image images/trainer-cpu]

Needs a Docker daemon and the program `docker-registry`. It works on a clone of this repository in a temporary
directory, with a registry of its own on a loopback port: the image as it is, then with one changed line of the
trainer's code, then with one changed light dependency. The bytes are those that came into the registry's storage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REGISTRY_CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[tuple[str, Path]]:
    """A registry with empty storage. Gives its address and where it keeps layers."""
    storage = directory / "registry"
    storage.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = directory / "registry.yml"
    config.write_text(REGISTRY_CONFIG.format(storage=storage, port=port))
    with (directory / "registry.log").open("w") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        time.sleep(1)
        yield f"127.0.0.1:{port}", storage
    finally:
        server.terminate()
        server.wait()


def stored_bytes(storage: Path) -> int:
    """Everything in the registry."""
    return sum(path.stat().st_size for path in storage.rglob("data") if path.is_file())


def run(*command: str, cwd: Path, **variables: str) -> str:
    """What a command prints. Its messages go to our stderr."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def commit(clone: Path, message: str) -> None:
    """Commit everything in the clone."""
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.invalid", "-c", "commit.gpgsign=false"]
    run("git", *identity, "commit", "--quiet", "--all", "--message", message, cwd=clone)


def change_code(clone: Path) -> None:
    """One line of the trainer."""
    path = clone / "components/trainer/src/tunewright/trainer/loss.py"
    path.write_text(path.read_text() + "\nBENCHMARK = 1\n")
    commit(clone, "one line")


def change_dependency(clone: Path, name: str, version: str) -> None:
    """Another version of a light package, in the lock: with the hashes that the index tells."""
    with tempfile.TemporaryDirectory() as scratch:
        run(
            "python3.11",
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "-d",
            scratch,
            f"{name}=={version}",
            cwd=clone,
        )
        (wheel,) = Path(scratch).iterdir()
        sha256 = run("sha256sum", str(wheel), cwd=clone).split()[0]
    for lock in clone.glob("3rdparty/python/train-*.lock"):  # they must agree
        lines = lock.read_text().splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{name}=="))
        end = next((n for n in range(start + 1, len(lines)) if not lines[n].startswith(" ")), len(lines))
        lines[start:end] = [f"{name}=={version} \\", f"    --hash=sha256:{sha256}"]
        lock.write_text("\n".join(lines) + "\n")
    commit(clone, f"{name} {version}")


def build_and_push(clone: Path, image: str, address: str, storage: Path) -> dict[str, Any]:
    """Build and push the commit that is checked out."""
    before, started = stored_bytes(storage), time.monotonic()
    environment = {"TUNEWRIGHT_HOME": str(clone / ".tunewright"), "TUNEWRIGHT_REGISTRY": address}
    arguments = ["run", "components/env-builder", "--", "build", image, "--branch", "main", "--json"]
    document = json.loads(run("./pants", *arguments, cwd=clone, **environment))
    built_seconds = time.monotonic() - started
    run("./pants", *arguments[:3], "push", document["key"], cwd=clone, **environment)
    seconds = time.monotonic() - started
    return {
        "build_seconds": round(built_seconds, 1),
        "push_seconds": round(seconds - built_seconds, 1),
        "new_bytes": stored_bytes(storage) - before,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="images/trainer-cpu")
    parser.add_argument("--dependency", default="rich", help="a light package of the lock")
    parser.add_argument("--version", default="14.0.0", help="the version it is changed to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch)) as (address, storage):
        clone = Path(scratch) / "clone"
        run("git", "clone", "--quiet", "--branch", "main", str(ROOT), str(clone), cwd=ROOT)
        rows = {"the whole image": build_and_push(clone, arguments.image, address, storage)}
        change_code(clone)
        rows["one line of code"] = build_and_push(clone, arguments.image, address, storage)
        change_dependency(clone, arguments.dependency, arguments.version)
        rows[f"{arguments.dependency} {arguments.version}"] = build_and_push(clone, arguments.image, address, storage)
    whole = rows["the whole image"]["new_bytes"]
    print(f"{'change':20} {'build s':>8} {'push s':>8} {'new bytes':>14} {'of the whole':>13}")
    for name, row in rows.items():
        share = row["new_bytes"] / whole
        print(f"{name:20} {row['build_seconds']:8} {row['push_seconds']:8} {row['new_bytes']:14,} {share:13.5%}")


if __name__ == "__main__":
    main()
