"""Starting an image once, as the user it runs as and without a network: what does not start is not tagged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunewright.env_builder.building import failed
from tunewright.env_builder.images.daemon import Daemon
from tunewright.env_builder.progress import showing

_VERSION_SCRIPT = "import platform; print(platform.python_version())"
_TIMEOUT_SECONDS = 300


def start_once(daemon: Daemon, image_id: str, command: Sequence[str], log: Path) -> None:
    """Run the image's program with `--help`. Raises EnvironmentBuildFailed with what it says where that fails."""
    with showing("starting it for the first time"):
        code, said = run_in(daemon, image_id, [*command, "--help"])
    with log.open("ab") as file:
        file.write(said)
    if code != 0:
        raise failed(f"the image was built but does not start: `{' '.join(command)} --help` ended with {code}", log)


def python_version_of(daemon: Daemon, image_id: str) -> str | None:
    """The version of its interpreter, None where it has none."""
    code, said = run_in(daemon, image_id, ["python3.11", "-I", "-S", "-c", _VERSION_SCRIPT])
    return said.decode(errors="replace").strip() if code == 0 else None


def run_in(daemon: Daemon, image_id: str, command: Sequence[str]) -> tuple[int, bytes]:
    """Run a command in a container of its own, which is gone afterwards. Gives exit code and output."""
    from docker.errors import APIError

    container = daemon.client.containers.create(
        image_id, entrypoint=list(command[:1]), command=list(command[1:]), network_mode="none", init=True
    )
    try:
        container.start()
        code = int(container.wait(timeout=_TIMEOUT_SECONDS)["StatusCode"])
        return code, container.logs()
    except APIError as error:
        return 127, str(error.explanation or error).encode()
    finally:
        container.remove(force=True)
