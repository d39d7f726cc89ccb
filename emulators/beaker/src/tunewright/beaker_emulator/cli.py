"""The command line: `serve`, and what only an emulator can be told."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from tunewright.beaker_emulator.launches import STOP_GRACE_SECONDS, Runner

_STATE = click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), required=True, help="The state directory of `serve`."
)


@click.group()
def main() -> None:
    """A stand-in for a Beaker server on this machine."""


@main.command()
@click.option("--port", type=int, default=0, help="Port of the REST half; 0: any that is free.")
@click.option("--rpc-port", type=int, default=0, help="Port of the gRPC half; 0: any that is free.")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="Kept between starts. Default: a new one."
)
@click.option(
    "--clusters",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Clusters, users, budgets and workspaces, as YAML.",
)
@click.option("--runner", "kind", type=click.Choice(["process", "docker"]), default="process", help="What runs tasks.")
@click.option(
    "--grace", "grace_seconds", type=float, default=STOP_GRACE_SECONDS, help="Seconds between SIGTERM and SIGKILL."
)
@click.option("--registry", help="HOST:PORT that images are pushed to; without, `image.create` is refused at the push.")
@click.option(
    "--certificates",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the certificates are, or are made. Default: in the state directory.",
)
@click.option("--keep-jobs", is_flag=True, help="Leave jobs running at the end, for the next start.")
@click.option("--until-stdin-ends", is_flag=True, help="End with whoever started it, however that ends.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON that tells where it listens.")
def serve(
    port: int,
    rpc_port: int,
    state: Path | None,
    clusters: Path | None,
    kind: str,
    grace_seconds: float,
    registry: str | None,
    certificates: Path | None,
    keep_jobs: bool,
    until_stdin_ends: bool,
    as_json: bool,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

    # Beaker's and gRPC's packages take a while, and the other commands need none.
    from tunewright.beaker_emulator.fleet import FleetError, read_fleet
    from tunewright.beaker_emulator.server import Emulator

    try:
        fleet = read_fleet(clusters)
    except FleetError as error:
        raise click.ClickException(str(error)) from error
    directory = (state or Path(tempfile.mkdtemp(prefix="beaker-emulator-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    runner = _runner(kind, directory / "job-files", grace_seconds)

    chosen = (certificates or directory / "certificates").resolve()
    try:
        emulator = Emulator(directory, fleet, runner, chosen, port, rpc_port, registry)
    except (OSError, RuntimeError) as error:
        raise click.ClickException(f"cannot listen on --port {port} and --rpc-port {rpc_port}: {error}") from error
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    if until_stdin_ends:
        threading.Thread(target=_wait_for_stdin, args=(ended,), daemon=True).start()
    listening = emulator.start()
    if as_json:
        click.echo(json.dumps({**asdict(listening), "variables": listening.variables}))
    else:
        click.echo(f"Beaker emulator: REST at {listening.agent_address}, gRPC at {listening.rpc_address}")
        click.echo("\n".join(f"export {name}={value}" for name, value in listening.variables.items()))
    ended.wait()
    emulator.stop(kill_jobs=not keep_jobs)


@main.command()
@_STATE
@click.argument("job")
def preempt(state: Path, job: str) -> None:
    """Preempt a job, as the scheduler would for one of higher priority."""
    _ask(state, f"jobs/{job}/preempt")


@main.command()
@_STATE
@click.argument("node")
def lose_node(state: Path, node: str) -> None:
    """Lose a node (id or hostname) and all that runs there, until `return-node`."""
    _ask(state, f"nodes/{node}/lose")


@main.command()
@_STATE
@click.argument("node")
def return_node(state: Path, node: str) -> None:
    """Give jobs to a node again."""
    _ask(state, f"nodes/{node}/return")


def _wait_for_stdin(ended: threading.Event) -> None:
    sys.stdin.buffer.read()
    ended.set()


def _runner(kind: str, directory: Path, grace_seconds: float) -> Runner:
    if kind == "docker":
        from tunewright.beaker_emulator.containers import ContainerRunner, DockerMissing

        try:
            return ContainerRunner(directory, grace_seconds)
        except DockerMissing as error:
            raise click.ClickException(str(error)) from error
    from tunewright.beaker_emulator.processes import ProcessRunner

    return ProcessRunner(directory, grace_seconds)


def _ask(state: Path, what: str) -> None:
    try:
        config: dict[str, Any] = yaml.safe_load((state / "client.yml").read_text())
        request = urllib.request.Request(
            f"{config['agent_address']}/emulator/{what}",
            method="POST",
            headers={"Authorization": f"Bearer {config['user_token']}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            for job in json.load(response)["jobs"]:
                click.echo(job)
    except urllib.error.HTTPError as error:
        raise click.ClickException(json.load(error)["message"]) from error
    except OSError as error:
        raise click.ClickException(f"no emulator answers that was started with --state {state}: {error}") from error


if __name__ == "__main__":
    main()
