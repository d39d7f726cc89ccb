"""From a request to an image: found here or in a registry by its inputs' digest, built once where it is nowhere."""

from __future__ import annotations

import contextlib
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.spec import digest_of
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.building import alone, packaged, refuse_other_tree, remove, timed
from tunewright.env_builder.checks import refuse
from tunewright.env_builder.git import commit_date, dirty_patch, source_url
from tunewright.env_builder.images import registry
from tunewright.env_builder.images.buildkit import BuildRequest, build_image, find_client, no_client
from tunewright.env_builder.images.checks import find_image_problems
from tunewright.env_builder.images.context import BaseImage, assemble, made_base, pants_targets
from tunewright.env_builder.images.daemon import Daemon, LocalImage, open_daemon
from tunewright.env_builder.images.labels import make_labels
from tunewright.env_builder.images.names import ImageName, has_digest, image_name
from tunewright.env_builder.images.options import ImageOptions
from tunewright.env_builder.images.record import BuiltImage, read_image, write_image
from tunewright.env_builder.images.start import python_version_of, start_once
from tunewright.env_builder.images.targets import ImageTarget, find_target, is_base, is_target
from tunewright.env_builder.inputs import EnvironmentInputs, inputs_of, lock_digest
from tunewright.env_builder.preflight import checkout_findings, lock_findings
from tunewright.env_builder.progress import say
from tunewright.env_builder.record import EnvironmentPlace, ProvidedEnvironment


@dataclass(frozen=True)
class ImageBuild:
    """One image to be had: what decides it, where its record lies, what it is called."""

    request: EnvironmentRequest
    options: ImageOptions
    target: ImageTarget
    inputs: EnvironmentInputs

    @property
    def root(self) -> Path:
        """The project."""
        return Path(self.request.project_root)

    @property
    def place(self) -> EnvironmentPlace:
        """Where its record lies."""
        return EnvironmentPlace(Path(self.request.home), self.inputs.key)

    @property
    def name(self) -> ImageName:
        """What it is called."""
        prefix = self.options.prefix or f"tunewright/{self.target.name}"
        return image_name(prefix, self.options.branch or self.request.code.branch, self.options.registry)

    @property
    def planned(self) -> EnvironmentRef:
        """What it will be, before it is there."""
        return EnvironmentRef(
            kind="image",
            key=self.inputs.key,
            reference=self.name.at_commit(self.request.code, self.inputs.key),
            command=self.target.command_in(self.root),
            lock_digest=lock_digest(self.root, self.target.resolve),
        )


def ensure_image(request: EnvironmentRequest, options: ImageOptions) -> ProvidedEnvironment:
    """The image of `request`, built where it is neither here nor in the registry, by one process at a time.

    Raises PreflightFailed where it cannot be built here, EnvironmentBuildFailed naming the log where building fails,
    Unavailable where daemon or registry cannot be reached. Nothing is tagged before the image is known to start.
    """
    reference = request.spec.image or ""
    if not is_target(Path(request.project_root), reference):
        return ProvidedEnvironment(outside_image(reference), built=False)
    build = plan_build(request, options)
    found = read_image(build.place)
    if request.plan_only:
        return ProvidedEnvironment(found.plain if found else build.planned, built=False)
    with open_daemon() as daemon:
        if found and daemon.find(found.image_id):
            return ProvidedEnvironment(_named(build, daemon, found).plain, built=False)
        with alone(build.place):
            if there := _find(build, daemon):
                return ProvidedEnvironment(there.plain, built=False)
            return ProvidedEnvironment(_build(build, daemon).plain, built=True)


def outside_image(reference: str) -> EnvironmentRef:
    """An image that somebody else built. Raises InvalidExperiment unless it has a digest: a tag may move."""
    if not has_digest(reference):
        problem = Problem(
            "environment.image",
            f"must be a folder with a Dockerfile, or a reference with a digest, got `{reference}`",
            "images/trainer-cpu, or name@sha256:...",
        )
        raise InvalidExperiment.from_problems("the environment", [problem])
    sha256 = reference.rpartition(":")[2]
    key = digest_of(["image", reference])
    return EnvironmentRef(kind="image", key=key, reference=reference, command=("/app/pex",), sha256=sha256)


def plan_build(request: EnvironmentRequest, options: ImageOptions) -> ImageBuild:
    """What is to be built, and its key. Reads the repository, asks nobody."""
    root = Path(request.project_root)
    target = find_target(root, request.spec.image or "")
    settings = {"BASE_IMAGE": options.base_image} if options.base_image else {}
    if options.models:
        settings["models"] = _models_digest(options, Path(request.home))
    inputs = inputs_of(
        root, request.code.commit, request.code.dirty,
        target=target.folder, paths=target.deciding_paths(root), settings=settings,
    )  # fmt: skip
    return ImageBuild(request, options, target, inputs)


def _models_digest(options: ImageOptions, home: Path) -> str:
    from tunewright.env_builder.models.pins import parse_model
    from tunewright.env_builder.models.staging import models_digest

    return models_digest(home, [parse_model(text) for text in options.models])


@contextlib.contextmanager
def _staged_models(options: ImageOptions, home: Path, scratch: Path) -> Iterator[Path | None]:
    """What images/offline has in place of its own models folder; it is gone afterwards. None without models."""
    if not options.models:
        yield None
        return
    from tunewright.env_builder.models.pins import parse_model
    from tunewright.env_builder.models.staging import stage_models

    with tempfile.TemporaryDirectory(dir=scratch, prefix=".models-", suffix=".tmp") as directory:
        models = Path(directory) / "models"
        models.mkdir()
        stage_models(home, [parse_model(text) for text in options.models], models / "hub")
        yield models


def _find(build: ImageBuild, daemon: Daemon) -> BuiltImage | None:
    """The image where it was built before: by this daemon, or by whoever pushed it. Its whole key must be the same."""
    where, found = "daemon", daemon.find_by_key(build.inputs.key)
    if found is None and build.options.registry:
        where = build.name.at_key(build.inputs.key)
        say(f"asking the registry for {where[: where.index('key-') + 16]}")
        found = registry.pull(daemon, where) if registry.exists(daemon, where) else None
        if found is not None and found.key != build.inputs.key:
            say(f"warning: {where} was built from something else; it is not used")
            found = None
    if found is None:
        return None
    built = _record_of(build, daemon, found, found_in=where)
    write_image(build.place, built, _patch(build))
    say(f"image {found.image_id[7:19]} is there ({where.partition(':')[0]})")
    return _named(build, daemon, built)


def _named(build: ImageBuild, daemon: Daemon, built: BuiltImage) -> BuiltImage:
    """The image under this commit's name too: a commit that changes nothing in it is the same image."""
    wanted = (build.name.at_commit(build.request.code, build.inputs.key), build.name.at_key(build.inputs.key))
    for reference in wanted:
        daemon.tag(built.image_id, reference)
    if set(wanted) <= set(built.names):
        return built
    named = built.model_copy(update={"names": tuple(dict.fromkeys((*wanted, *built.names)))})
    write_image(build.place, named)
    return named


def _build(build: ImageBuild, daemon: Daemon) -> BuiltImage:
    """Package, build, start once, and only then tag and record."""
    findings = find_image_problems(build.root, build.place.home, daemon, build.options)
    refuse("the image cannot be built here", [*findings, *lock_findings(build.root), *checkout_findings(build.root)])
    client = find_client()
    if client is None:
        raise no_client()
    refuse_other_tree(build.root, build.request, build.inputs)
    say(f"building {build.target.folder} of commit {build.request.code.commit[:12]}; log: {build.place.log}")
    build.place.log.write_text("")
    with timed() as seconds:
        bases = _given_bases(build, daemon)
        targets = pants_targets(build.target, bases)
        scratch = build.options.tmpdir or build.place.environments
        with (
            packaged(build.root, build.inputs.key, build.place.log, targets, build.options.tmpdir) as distdir,
            _staged_models(build.options, build.place.home, scratch) as models,
        ):
            bases = {**bases, **_made_bases(build, daemon, distdir, bases)}
            request = BuildRequest(
                context=distdir,
                dockerfile=assemble(build.target, build.root, distdir, models),
                arguments={base.argument: base.reference for base in bases.values()},
                labels=_labels(build, bases),
                cache_from=_cache_references(build),
                tmpdir=build.options.tmpdir,
            )
            image_id = build_image(client, request, build.place.log)
        refuse_other_tree(build.root, build.request, build.inputs)
        start_once(daemon, image_id, build.planned.command, build.place.log)
    image = daemon.find(image_id)
    assert image is not None, "the daemon has just made it"
    return _keep(build, daemon, image, seconds[0], bases)


def _keep(
    build: ImageBuild, daemon: Daemon, image: LocalImage, seconds: float, bases: Mapping[str, BaseImage]
) -> BuiltImage:
    """Tag it and write its record. Before this nobody finds it: a build that is cut short leaves layers only."""
    built = _record_of(build, daemon, image, seconds=seconds, bases=bases)
    remove(build.place.directory)
    write_image(build.place, built, _patch(build))
    say(f"image {image.image_id[7:19]} built in {seconds:.0f} s: {image.bytes / 2**20:.0f} MiB")
    return _named(build, daemon, built)


def _patch(build: ImageBuild) -> bytes:
    """What the tree has beyond its commit, to be kept beside the record."""
    return dirty_patch(build.root) if build.request.code.dirty else b""


def _record_of(
    build: ImageBuild, daemon: Daemon, image: LocalImage, *,
    found_in: str | None = None, seconds: float = 0.0, bases: Mapping[str, BaseImage] | None = None,
) -> BuiltImage:  # fmt: skip
    base = next(iter((bases or {}).values()), None)
    revision = image.labels.get("org.opencontainers.image.revision", build.request.code.commit)
    return BuiltImage(
        **build.planned.model_dump(exclude={"reference", "sha256", "python", "commit"}),
        reference=image.digest_in(build.name.repository) or image.image_id,
        sha256=image.image_id.partition(":")[2],
        python=python_version_of(daemon, image.image_id),
        commit=revision.removesuffix("-dirty"),
        image_id=image.image_id,
        target=build.target.folder,
        repo_digests=image.repo_digests,
        base_name=base.reference if base else image.labels.get("org.opencontainers.image.base.name", ""),
        base_digest=base.digest if base else image.labels.get("org.opencontainers.image.base.digest", ""),
        layers=image.layers,
        bytes=image.bytes,
        dirty=build.request.code.dirty,
        models=build.options.models,
        built_at=utc_now(),
        build_seconds=round(seconds, 1),
        found_in=found_in,
    )


def _given_bases(build: ImageBuild, daemon: Daemon) -> dict[str, BaseImage]:
    """The images below this one that Pants does not make: given by the user, or targets of their own."""
    bases = {}
    for argument, address in build.target.bases.items():
        if is_base(address) and build.options.base_image:
            bases[argument] = _chosen_base(argument, build.options.base_image, daemon)
        elif not is_base(address):
            spec = build.request.spec.model_copy(update={"image": address})
            lower = plan_build(build.request.model_copy(update={"spec": spec}), replace(build.options, models=()))
            reference = ensure_image(lower.request, lower.options).reference
            bases[argument] = BaseImage(argument, lower.name.at_key(lower.inputs.key), f"sha256:{reference.sha256}")
    return bases


def _chosen_base(argument: str, reference: str, daemon: Daemon) -> BaseImage:
    """The user's own base: it is here, or it has a digest and can be pulled."""
    image = daemon.find(reference) or (registry.pull(daemon, reference) if has_digest(reference) else None)
    if image is None:
        problem = Problem(
            "base image",
            f"`{reference}` is not here" + ("" if has_digest(reference) else ", and without a digest it is not pulled"),
            "name@sha256:..., or an image that is here; without one, images/base is made",
        )
        raise InvalidExperiment.from_problems("the image cannot be built", [problem])
    return BaseImage(argument, reference, image.image_id)


def _made_bases(
    build: ImageBuild, daemon: Daemon, distdir: Path, given: Mapping[str, BaseImage]
) -> dict[str, BaseImage]:
    made = {}
    for argument, address in build.target.bases.items():
        if argument not in given:
            reference = made_base(distdir, address)
            image = daemon.find(reference)
            made[argument] = BaseImage(argument, reference, image.image_id if image else "")
    return made


def _labels(build: ImageBuild, bases: Mapping[str, BaseImage]) -> dict[str, str]:
    base = next(iter(bases.values()), BaseImage("", "", ""))
    code = build.request.code
    return make_labels(
        title=f"Tunewright {build.target.name}",
        commit=code.commit,
        dirty=code.dirty,
        created=commit_date(build.root, code.commit),
        version=_version_of(build),
        source=source_url(build.root),
        base_name=base.reference,
        base_digest=base.digest,
        lock_digest=build.planned.lock_digest,
        key=build.inputs.key,
        target=build.target.folder,
    )


def _version_of(build: ImageBuild) -> str:
    """The version of the component in the image: its own where it is called as one, else the trainer's."""
    name = build.target.name if (build.root / "components" / build.target.name).is_dir() else "trainer"
    try:
        project = tomllib.loads((build.root / "components" / name / "pyproject.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    return str(project.get("project", {}).get("version", ""))


def _cache_references(build: ImageBuild) -> tuple[str, ...]:
    """Images whose layers may be the same: the user's, and the last of this branch in the registry."""
    own = (build.name.latest,) if build.options.registry else ()
    return (*build.options.cache_from, *own)
