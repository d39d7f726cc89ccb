"""A codegen target: installed-distribution metadata for a component, straight from its pyproject.toml.

`python_dist_info(name="dist-info")` makes `<root>/<name>-<version>.dist-info/{METADATA,entry_points.txt,COMMIT}`,
so `importlib.metadata` (and so pluggy) sees the component's entry points in `run`, `test`, and PEX files,
with its code still carried as plain first-party sources.
"""

from __future__ import annotations

import os
import re

import toml
from pants.backend.python.util_rules.package_dists import SetupKwargs, SetupKwargsRequest
from pants.core.target_types import ResourceSourceField
from pants.engine.fs import CreateDigest, Digest, DigestContents, FileContent, PathGlobs, Snapshot
from pants.engine.rules import Get, collect_rules, rule
from pants.engine.target import (
    COMMON_TARGET_FIELDS,
    Dependencies,
    GeneratedSources,
    GenerateSourcesRequest,
    SingleSourceField,
    StringField,
    Target,
)
from pants.engine.unions import UnionRule


class DistInfoSourceField(SingleSourceField):
    default = "pyproject.toml"
    required = False
    help = "The component's pyproject.toml."


class DistInfoRootField(StringField):
    alias = "root"
    default = "src"
    help = "The source root that gets the metadata, relative to this BUILD file."


class DistInfoCommitField(StringField):
    alias = "commit"
    default = ""
    help = "The commit it is built from, for `--version`; no COMMIT file where empty."


class PythonDistInfo(Target):
    alias = "python_dist_info"
    core_fields = (*COMMON_TARGET_FIELDS, Dependencies, DistInfoSourceField, DistInfoRootField, DistInfoCommitField)
    help = "Metadata of an installed distribution (name, version, entry points), from pyproject.toml."


class GenerateDistInfoRequest(GenerateSourcesRequest):
    input = DistInfoSourceField
    output = ResourceSourceField


def _entry_points_txt(project: dict) -> str:
    groups = dict(project.get("entry-points", {}))
    if project.get("scripts"):
        groups["console_scripts"] = project["scripts"]
    return "".join(
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in sorted(points.items())) + "\n"
        for group, points in sorted(groups.items())
    )


@rule(desc="Generate distribution metadata")
async def generate_dist_info(request: GenerateDistInfoRequest) -> GeneratedSources:
    contents = await Get(DigestContents, Digest, request.protocol_sources.digest)
    project = toml.loads(contents[0].content.decode())["project"]
    name, version = project["name"], project["version"]
    stem = f"{re.sub(r'[-_.]+', '_', name).lower()}-{version}.dist-info"
    tgt = request.protocol_target
    base = os.path.join(tgt.address.spec_path, tgt[DistInfoRootField].value or "", stem)
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "entry_points.txt": _entry_points_txt(project),
    }
    if tgt[DistInfoCommitField].value:
        texts["COMMIT"] = f"{tgt[DistInfoCommitField].value}\n"
    files = [FileContent(f"{base}/{file}", text.encode()) for file, text in texts.items()]
    return GeneratedSources(await Get(Snapshot, CreateDigest(files)))


class PyprojectSetupKwargsRequest(SetupKwargsRequest):
    @classmethod
    def is_applicable(cls, target: Target) -> bool:
        return True


@rule
async def setup_kwargs_from_pyproject(request: PyprojectSetupKwargsRequest) -> SetupKwargs:
    """Wheels take name, version, and entry points from the pyproject.toml beside their BUILD file."""
    kwargs = dict(request.explicit_kwargs)
    contents = await Get(
        DigestContents,
        PathGlobs([os.path.join(request.target.address.spec_path, "pyproject.toml")]),
    )
    if contents:
        project = toml.loads(contents[0].content.decode())["project"]
        kwargs.setdefault("name", project["name"])
        kwargs.setdefault("version", project["version"])
        groups = {
            group: [f"{k} = {v}" for k, v in sorted(points.items())]
            for group, points in {
                **project.get("entry-points", {}),
                **({"console_scripts": project["scripts"]} if project.get("scripts") else {}),
            }.items()
        }
        if groups:
            kwargs.setdefault("entry_points", groups)
    return SetupKwargs(kwargs, address=request.target.address)


def target_types():
    return [PythonDistInfo]


def rules():
    return [
        *collect_rules(),
        UnionRule(GenerateSourcesRequest, GenerateDistInfoRequest),
        UnionRule(SetupKwargsRequest, PyprojectSetupKwargsRequest),
    ]
