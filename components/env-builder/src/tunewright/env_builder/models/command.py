"""The commands about models: `fetch-model`, `list-models`, `verify-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.contracts.files import json_text
from tunewright.env_builder.models.fetch import (
    FetchedModel,
    FetchPlan,
    default_client,
    ensure_model,
    find_model,
    plan_fetch,
    refuse_without_space,
)
from tunewright.env_builder.models.layout import ModelPlace, hub_of
from tunewright.env_builder.models.manifest import LeftOut, ModelManifest, list_models, verify_model
from tunewright.env_builder.models.offline import offline_environment
from tunewright.env_builder.models.pins import ModelPin, check_commit, check_model_id, parse_model_pin
from tunewright.env_builder.models.progress import bytes_text, make_transfer_progress
from tunewright.env_builder.models.selection import CODE, REASONS, UNSAFE_WEIGHTS, Permissions, has_weights, reason_of
from tunewright.env_builder.progress import say

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _home() -> Path:
    return find_home(find_project_root(Path.cwd() / "here"))


def _print(document: Any) -> None:
    click.echo(json_text(document), nl=False)


@click.command(name="fetch-model")
@click.argument("model_id", metavar="ID")
@click.option("--revision", default="", metavar="COMMIT", help="The commit, 40 hexadecimal digits. No branch, no tag.")
@click.option(
    "--allow-unsafe-weights", is_flag=True, help="Also weights in pickles, which run code when they are loaded."
)
@click.option("--allow-code", is_flag=True, help="Also the model's own Python files, for `trust_remote_code`.")
@click.option("--dry-run", is_flag=True, help="Show what would be fetched and left out; write nothing.")
@as_json
def fetch_model(
    model_id: str, revision: str, allow_unsafe_weights: bool, allow_code: bool, dry_run: bool, as_json: bool
) -> None:
    """Fetch the model ID of the hub at a commit into the store, verified; prints its directory.

    Safetensors, configuration, tokenizer and licence only, unless told otherwise. What was interrupted goes on where it
    ended. A model that is there already takes no network. HF_ENDPOINT and HF_TOKEN count.
    """
    pin = ModelPin(check_model_id(model_id), check_commit(revision, model_id))
    permissions = Permissions(unsafe_weights=allow_unsafe_weights, code=allow_code)
    if dry_run:
        _show_plan(pin, permissions, as_json)
        return
    with make_transfer_progress() as progress:
        fetched = ensure_model(_home(), pin, permissions, progress)
    _say_outcome(fetched, permissions)
    if as_json:
        _print(_fetched_document(fetched))
    else:
        click.echo(str(fetched.place.snapshot))


def _show_plan(pin: ModelPin, permissions: Permissions, as_json: bool) -> None:
    place = ModelPlace(hub_of(_home()), pin.model_id, pin.commit)
    if found := find_model(place, permissions):
        fetched = FetchedModel(found, place, 0, was_there=True)
        _say_outcome(fetched, permissions)
        if as_json:
            _print({**_fetched_document(fetched), "dry_run": True})
        return
    plan = plan_fetch(place, pin, permissions, default_client(), say)
    if as_json:
        _print(_plan_document(plan))
    else:
        click.echo("".join(f"fetch     {bytes_text(one.size_bytes):>9}  {one.name}\n" for one in plan.wanted), nl=False)
        click.echo("".join(f"leave out {bytes_text(one.bytes):>9}  {one.file}\n" for one in plan.left_out), nl=False)
    say(
        f"{pin}: {bytes_text(plan.missing_bytes)} of {bytes_text(plan.size_bytes)} to fetch, "
        f"{bytes_text(plan.free_bytes)} free in {place.hub}; nothing was written"
    )
    _say_left_out(plan.left_out)
    refuse_without_space(plan)


def _say_outcome(fetched: FetchedModel, permissions: Permissions) -> None:
    manifest = fetched.manifest
    name = f"{manifest.model_id}@{manifest.commit[:12]}"
    if fetched.was_there:
        say(f"nothing to fetch: {name} is there")
    else:
        size, came = bytes_text(manifest.size_bytes), bytes_text(fetched.fetched_bytes)
        say(f"{name}: {len(manifest.files)} file(s), {size}, {came} fetched, all verified")
        _say_left_out(manifest.left_out)
    risks = {reason_of(file.file) for file in manifest.files}
    for reason, allowed in ((UNSAFE_WEIGHTS, permissions.unsafe_weights), (CODE, permissions.code)):
        if reason in risks and not allowed:
            say(f"note: an earlier call allowed it files of this kind: {REASONS[reason].partition(';')[0]}")
    if not has_weights(file.file for file in manifest.files):
        say("note: it has no weights, only configuration or a tokenizer")


def _say_left_out(left_out: tuple[LeftOut, ...]) -> None:
    """One line a reason."""
    for reason, text in REASONS.items():
        names = [one.file for one in left_out if one.reason == reason]
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            say(f"left out: {shown} ({text})")


def _fetched_document(fetched: FetchedModel) -> dict[str, Any]:
    return {
        **fetched.manifest.to_document(),
        "bytes": fetched.manifest.size_bytes,
        "fetched": not fetched.was_there,
        "fetched_bytes": fetched.fetched_bytes,
        "snapshot": str(fetched.place.snapshot),
        "variables": offline_environment(str(fetched.place.hub)),
    }


def _plan_document(plan: FetchPlan) -> dict[str, Any]:
    return {
        "dry_run": True,
        "model_id": plan.pin.model_id,
        "commit": plan.pin.commit,
        "files": [{"file": one.name, "bytes": one.size_bytes, "blob": one.blob} for one in plan.wanted],
        "left_out": [one.to_document() for one in plan.left_out],
        "bytes": plan.size_bytes,
        "missing_bytes": plan.missing_bytes,
        "free_bytes": plan.free_bytes,
    }


@click.command(name="list-models")
@as_json
def list_models_command(as_json: bool) -> None:
    """List the models that are there, with commit, size and digest."""
    found = list_models(hub_of(_home()))
    if as_json:
        _print([_listed(manifest) for manifest in found])
        return
    for one in found:
        click.echo(f"{one.model_id}@{one.commit}  {bytes_text(one.size_bytes):>9}  {one.fetched_at}  {one.digest[:12]}")


def _listed(manifest: ModelManifest) -> dict[str, Any]:
    return {**manifest.model_dump(mode="json", exclude={"files", "left_out"}), "bytes": manifest.size_bytes}


@click.command(name="verify-model")
@click.argument("reference", metavar="ID@COMMIT")
@as_json
def verify_model_command(reference: str, as_json: bool) -> None:
    """Read every byte of a fetched model and compare it with its manifest; exit 65 names every file that differs."""
    pin = parse_model_pin(reference, option="ID@COMMIT")
    manifest = verify_model(ModelPlace(hub_of(_home()), pin.model_id, pin.commit))
    if as_json:
        _print({**_listed(manifest), "verified": True, "num_files": len(manifest.files)})
    else:
        click.echo(f"{pin}: {len(manifest.files)} file(s) as recorded, digest {manifest.digest}")
