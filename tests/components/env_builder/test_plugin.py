"""The env-builder as the launcher meets it: through its hooks, last in line, light."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from components.env_builder.checkout import Checkout
from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import EnvironmentSpec, ExperimentSpec, ResolvedExperiment
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.preflight import Severity
from tunewright.env_builder import plugin

MINIMAL = {"schema": 1, "name": "a", "model": {"name_or_path": "m"}, "dataset": {"mix": [{"source": "r.jsonl"}]}}


@pytest.fixture
def host() -> PluginHost:
    made = PluginHost()
    made.register(plugin, "env-builder")
    return made


def resolved(root: Path, environment: dict[str, str]) -> ResolvedExperiment:
    spec = ExperimentSpec.model_validate({**MINIMAL, "environment": environment})
    return ResolvedExperiment(spec=spec, project_root=str(root), home=str(root / ".tunewright"))


def test_the_installed_distribution_brings_the_hooks() -> None:
    (found,) = [one for one in PluginHost.discover().installed if one.name == "env-builder"]
    assert found.error == ""
    assert found.hooks == ("tunewright_preflight", "tunewright_provide_environment")


def test_another_plugin_is_asked_first_wherever_it_stands(host: PluginHost, checkout: Checkout) -> None:
    answer = EnvironmentRef(kind="pex", key="theirs", reference="theirs.pex", command=("theirs",))

    @hookimpl
    def tunewright_provide_environment(environment: EnvironmentRequest) -> EnvironmentRef:
        return answer

    theirs = types.ModuleType("theirs")
    theirs.tunewright_provide_environment = tunewright_provide_environment  # type: ignore[attr-defined]  # a module made here
    both = PluginHost()
    both.register(theirs, "a-theirs")
    both.register(plugin, "z-env-builder")
    assert both.provide_environment(checkout.request()) == answer
    assert host.provide_environment(checkout.request()).key != "theirs"


def test_an_image_that_is_nowhere_is_refused_in_preflight_and_when_it_is_asked_for(
    host: PluginHost, checkout: Checkout
) -> None:
    image = {"kind": "image", "image": "images/trainer-cpu"}
    (finding,) = [one for one in host.preflight(resolved(checkout.root, image)) if one.severity is Severity.ERROR]
    assert (finding.code, finding.path) == ("image-unknown", "environment.image")
    request = checkout.request().model_copy(update={"spec": EnvironmentSpec(kind="image", image="images/trainer-cpu")})
    with pytest.raises(InvalidExperiment, match=r"environment\.image: .* got `images/trainer-cpu`"):
        host.provide_environment(request)


def test_a_project_without_a_trainer_only_warns_since_another_plugin_may_answer(
    host: PluginHost, tmp_path: Path
) -> None:
    findings = host.preflight(resolved(tmp_path, {}))
    assert "environment-no-trainer-sources" in [finding.code for finding in findings]
    assert {finding.severity for finding in findings} == {Severity.WARNING}


def test_preflight_has_nothing_against_a_good_project(host: PluginHost, checkout: Checkout) -> None:
    findings = host.preflight(resolved(checkout.root, {}))
    assert [finding for finding in findings if finding.code != "environment-disk-space"] == []


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    script = (
        "import sys, tunewright.env_builder.plugin; "
        "print([m for m in ('torch', 'git', 'rich', 'subprocess', 'tunewright.env_builder.build') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
