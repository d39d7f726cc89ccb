"""What the commands share: where they are, how they print, and the options of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from tunewright.contracts.environments import CodeOrigin, EnvironmentRequest
from tunewright.contracts.errors import TunewrightError, UsageError
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.experiment_file import find_home, find_project_root, load_experiment
from tunewright.contracts.files import json_text
from tunewright.contracts.preflight import Finding
from tunewright.env_builder.checks import refuse
from tunewright.env_builder.git import current_branch, head_commit
from tunewright.env_builder.images.options import ImageOptions
from tunewright.env_builder.images.targets import find_target, is_target
from tunewright.env_builder.inputs import DECIDING_PATHS, TARGET, changes

_SHOWN_FILES = 10

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def project() -> tuple[Path, Path]:
    """The project's root and `$TUNEWRIGHT_HOME`, from where the command was called."""
    root = find_project_root(Path.cwd() / "here")
    return root, find_home(root)


def print_document(document: Any) -> None:
    """JSON on stdout."""
    click.echo(json_text(document), nl=False)


def image_options(command: Command) -> Command:
    """The options of a command that builds or names images; it gets them as `options`."""

    @wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in ("prefix", "registry", "branch", "base_image", "tmpdir")}
        defaults = ImageOptions.from_environment()
        chosen = {name: value for name, value in given.items() if value}
        cache_from = (*defaults.cache_from, *kwargs.pop("cache_from"))
        options = replace(defaults, **chosen, cache_from=cache_from, models=tuple(kwargs.pop("models")))
        return command(*args, options=options, **kwargs)

    for option in reversed(_IMAGE_OPTIONS):
        collected = option(collected)
    return collected  # type: ignore[return-value]  # called as the command is


_IMAGE_OPTIONS = (
    click.option("--prefix", metavar="NAME", help="The image's name before `-<branch>`. [default: tunewright/<image>]"),
    click.option("--registry", metavar="HOST[:PORT][/PATH]", help="Where images are found. [$TUNEWRIGHT_REGISTRY]"),
    click.option("--branch", metavar="NAME", help="The branch in the image's name. [default: the one checked out]"),
    click.option("--base-image", metavar="REF", help="In place of images/base. [$TUNEWRIGHT_BASE_IMAGE]"),
    click.option(
        "--cache-from", multiple=True, metavar="REF", help="Take equal layers from there. [$TUNEWRIGHT_CACHE_FROM]"
    ),
    click.option(
        "--tmpdir", type=click.Path(path_type=Path), metavar="DIRECTORY", help="For the build's temporary files."
    ),
    click.option(
        "--model", "models", multiple=True, metavar="ID@COMMIT", help="Put into images/offline; or NAME=DIRECTORY."
    ),
)


def request_of(target: str | None, allow_dirty: bool) -> EnvironmentRequest:
    """What `build TARGET` asks for. Raises PreflightFailed where the checkout is not a commit."""
    root, home = project()
    spec = EnvironmentSpec()
    if target is not None and target.endswith(".toml"):
        loaded = load_experiment(Path(target))
        root, home, spec = loaded.project_root, loaded.home, loaded.spec.environment
    elif target is not None and target != TARGET:
        if not is_target(root, target) and not target.startswith("images/"):
            raise UsageError(
                f"`{target}`: must be an experiment file (*.toml), an image such as images/trainer-cpu, or `{TARGET}`"
            )
        find_target(root, target)
        spec = EnvironmentSpec(kind="image", image=target)
    tree = tree_findings(root, paths_of(root, spec))
    refuse("the environment is not built", [one for one in tree if not (allow_dirty and one.code == "git-tree-dirty")])
    code = CodeOrigin(commit=head_commit(root), branch=current_branch(root), dirty=bool(tree))
    return EnvironmentRequest(spec=spec, project_root=str(root), home=str(home), code=code)


def paths_of(root: Path, spec: EnvironmentSpec) -> tuple[str, ...]:
    """Every place in the repository that decides the environment."""
    if spec.image and is_target(root, spec.image):
        return find_target(root, spec.image).deciding_paths(root)
    return DECIDING_PATHS


def tree_findings(root: Path, paths: tuple[str, ...] = DECIDING_PATHS) -> list[Finding]:
    """Whether there is a commit, and whether what decides the environment is as it says."""
    try:
        head_commit(root)
        changed = sorted(changes(root, paths))
    except TunewrightError as error:
        return [Finding(code="not-a-git-checkout", message=error.message, hint=error.hint or "make a commit first")]
    if not changed:
        return []
    shown = ", ".join(changed[:_SHOWN_FILES]) + (", ..." if len(changed) > _SHOWN_FILES else "")
    message = f"{len(changed)} file(s) that decide the environment differ from the commit: {shown}"
    return [Finding(code="git-tree-dirty", message=message, hint="commit them, or build with --allow-dirty")]
