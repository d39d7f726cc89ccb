"""The plugin host: real distributions, found by their entry points, in a process of their own."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.contracts.installed import Site
from tunewright.contracts.clusters import ClusterInfo, ClusterRegistry
from tunewright.contracts.errors import BrokenPlugin, DuplicatePlugin, TunewrightError, Unavailable, UnknownPlugin
from tunewright.contracts.experiment import ExperimentSpec, ResolvedExperiment
from tunewright.contracts.hookspecs import hookimpl, judges
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.plugins import KnownFindings, PluginHost, load_entry, options_type_of
from tunewright.contracts.preflight import Finding
from tunewright.contracts.registry import API_VERSION
from tunewright.contracts.spec import Spec


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


def test_a_plugin_is_found_by_its_entry_point_with_everything_about_it(site: Site) -> None:
    site.cluster("tunewright-cluster-moon", "moon")
    found = site.ask("answer = [vars(one) for one in host.installed if one.name == 'tunewright-cluster-moon']")
    assert found == [
        {
            "name": "tunewright-cluster-moon", "distribution": "tunewright-cluster-moon", "version": "1.0",
            "module": "tunewright_cluster_moon", "hooks": ["tunewright_register_clusters"], "error": "",
        }
    ]  # fmt: skip
    assert "moon" in site.ask("answer = host.clusters.names()")
    assert site.ask("answer = host.versions['tunewright-cluster-moon']") == "1.0"


def test_two_plugins_of_one_name_are_an_error_naming_both(site: Site) -> None:
    site.cluster("moon-one", "one", entry_point="moon")
    site.cluster("moon-two", "two", entry_point="moon")
    answer = site.ask("answer = None")
    assert answer["error"] == "DuplicatePlugin"
    assert all(word in answer["message"] for word in ("`moon`", "moon-one", "moon-two"))


def test_two_clusters_of_one_name_are_an_error_naming_both(site: Site) -> None:
    site.cluster("moon-one", "moon")
    site.cluster("moon-two", "moon")
    answer = site.ask("answer = host.clusters.names()")
    assert answer["error"] == "DuplicatePlugin"
    assert all(word in answer["message"] for word in ("cluster `moon`", "moon-one", "moon-two"))


def test_the_same_distribution_twice_on_the_path_is_one_plugin(site: Site, tmp_path: Path) -> None:
    site.cluster("moon-one", "moon")
    Site(tmp_path / "site" / "again").cluster("moon-one", "moon")
    script = "import sys; sys.path.insert(0, sys.path[1] + '/again'); answer = PluginHost.discover().clusters.names()"
    assert "moon" in site.ask(script)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise RuntimeError('at import')", "at import"),
        ("def f(:", "SyntaxError"),
        ("from tunewright.contracts.hookspecs import hookimpl\n@hookimpl\n"
         "def tunewright_register_clusters(register):\n    raise RuntimeError('registering')", "registering"),
        ("from tunewright.contracts.hookspecs import hookimpl\n@hookimpl\n"
         "def tunewright_register_clusters(registry): ...", "registry"),
        ("from tunewright.contracts.hookspecs import hookimpl\n@hookimpl\ndef tunewright_register_moons(register): ...",
         "tunewright_register_moons"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_with_its_cause_and_the_others_work(source: str, cause: str, site: Site) -> None:
    site.install("a-broken-one", source)
    site.cluster("b-good-one", "moon")
    answer = site.ask("answer = [host.clusters.names(), {one.name: one.error for one in host.installed}]")
    assert "moon" in answer[0]
    assert cause in answer[1]["a-broken-one"]
    assert answer[1]["b-good-one"] == ""
    assert "a-broken-one" not in site.ask("answer = host.versions")


def test_a_plugin_for_another_api_is_reported_and_not_run(site: Site) -> None:
    site.cluster("from-the-future", "future", api=API_VERSION + 1)
    answer = site.ask("answer = [host.clusters.names(), {one.name: one.error for one in host.installed}]")
    assert "future" not in answer[0]
    assert f"plugin API {API_VERSION + 1}" in answer[1]["from-the-future"]
    assert f"this is plugin API {API_VERSION}" in answer[1]["from-the-future"]


def test_an_unknown_name_lists_what_is_installed_and_proposes_a_close_one(site: Site) -> None:
    site.cluster("moon-one", "moon")
    answer = site.ask("answer = host.clusters.get('mon', 'cluster.name')")
    assert answer["error"] == "UnknownPlugin"
    assert all(word in answer["message"] for word in ("cluster.name", "`mon`", "moon", "did you mean `moon`?"))


# ---- hooks, with plugins made here


def module(name: str, **hooks: Callable[..., Any]) -> types.ModuleType:
    made = types.ModuleType(name)
    for hook, function in hooks.items():
        function.__name__ = hook
        setattr(made, hook, hookimpl(function))
    return made


def host_of(**plugins: types.ModuleType) -> PluginHost:
    host = PluginHost()
    for name, one in plugins.items():
        host.register(one, name.replace("_", "-"))
    return host


def fail(experiment: object = None) -> None:
    raise RuntimeError("no good")


def test_a_listener_takes_only_the_arguments_it_names() -> None:
    heard: list[object] = []
    host = host_of(
        none=module("none", tunewright_run_submitted=lambda: heard.append("none")),
        one=module("one", tunewright_run_submitted=lambda job: heard.append((job,))),
        two=module("two", tunewright_run_submitted=lambda job, handle: heard.append((handle, job))),
    )
    assert host.notify("tunewright_run_submitted", handle="h", job="j") == []
    assert heard == ["none", ("j",), ("h", "j")]


def test_a_listener_that_raises_is_reported_and_the_others_hear() -> None:
    heard: list[object] = []
    host = host_of(
        a_bad=module("a_bad", tunewright_run_finished=lambda record: fail()),
        b_good=module("b_good", tunewright_run_finished=lambda record: heard.append((record,))),
    )
    (complaint,) = host.notify("tunewright_run_finished", record="r")
    assert all(word in complaint for word in ("a-bad", "tunewright_run_finished", "RuntimeError", "no good"))
    assert heard == [("r",)]


def test_findings_are_joined_and_a_plugin_that_cannot_judge_is_an_error_finding() -> None:
    host = host_of(
        a_bad=module("a_bad", tunewright_preflight=fail),
        b_silent=module("b_silent", tunewright_preflight=lambda experiment: None),
        c_good=module("c_good", tunewright_preflight=lambda experiment: ["found"]),
    )
    broken, found = host.preflight("experiment")  # type: ignore[arg-type]  # handed through as it is
    assert broken.code == "plugin-broken"
    assert str(found) == "found"
    assert "a-bad" in broken.message
    assert "no good" in broken.message


def test_the_first_answer_wins_and_none_leaves_it_to_the_next() -> None:
    asked: list[str] = []

    def answer(name: str, value: str | None) -> Callable[[object], str | None]:
        def provide(environment: object) -> str | None:
            asked.append(name)
            return value

        return provide

    last = types.ModuleType("last")
    last.tunewright_provide_environment = hookimpl(  # type: ignore[attr-defined]  # a module made here
        _named("tunewright_provide_environment", answer("last", "from last")), trylast=True
    )
    host = PluginHost()
    host.register(module("first", tunewright_provide_environment=answer("first", "from first")), "first")
    host.register(module("silent", tunewright_provide_environment=answer("silent", None)), "silent")
    host.register(last, "last")
    assert host.provide_environment("request") == "from first"  # type: ignore[comparison-overlap, arg-type]
    assert asked == ["silent", "first"]


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = name
    return function


def test_where_nobody_answers_the_kind_asked_for_is_named() -> None:
    from tunewright.contracts.environments import CodeOrigin, EnvironmentRequest
    from tunewright.contracts.experiment import EnvironmentSpec

    request = EnvironmentRequest(
        spec=EnvironmentSpec(kind="image", image="i"), project_root="/", home="/", code=CodeOrigin(commit="c")
    )
    with pytest.raises(Unavailable, match="`image`"):
        PluginHost().provide_environment(request)


def test_an_error_of_ours_passes_and_another_names_the_hook() -> None:
    def ours(environment: object) -> None:
        raise TunewrightError("ours")

    with pytest.raises(TunewrightError, match=r"^ours$"):
        host_of(a=module("a", tunewright_provide_environment=ours)).provide_environment("r")  # type: ignore[arg-type]
    broken = host_of(a=module("a", tunewright_provide_environment=lambda environment: fail()))
    with pytest.raises(BrokenPlugin, match="tunewright_provide_environment: RuntimeError: no good"):
        broken.provide_environment("r")  # type: ignore[arg-type]


def test_an_entry_that_cannot_be_had_names_the_plugin_and_the_cause() -> None:
    assert load_entry("pathlib:Path", "p") is Path
    for entry in ("pathlib:Pith", "no_such_module:Thing"):
        with pytest.raises(BrokenPlugin, match=f"plugin moon: cannot load {entry}"):
            load_entry(entry, "moon")


def test_the_type_of_options_is_imported_when_it_is_asked_for() -> None:
    info = cluster("moon")
    assert options_type_of(info) is Spec
    assert options_type_of(replace(info, options_type="tunewright.contracts.jobs:JobSpec")) is JobSpec
    assert replace(info, options_type="no_such_module:Options").name == "moon"
    for wrong, complaint in (("no_such_module:Options", "cannot load"), ("pathlib:Path", "is no Spec")):
        with pytest.raises(BrokenPlugin, match=f"plugin moon: .*{complaint}|plugin moon: {complaint}"):
            options_type_of(replace(info, options_type=wrong))


def cluster(name: str, api: int = API_VERSION) -> ClusterInfo:
    return ClusterInfo(name=name, summary="", entry="a:B", options_type=Spec, api=api)


def test_a_registry_keeps_what_was_added_by_name_and_knows_whose_it_is() -> None:
    registry = ClusterRegistry()
    registry.plugin = "first"
    registry.add(cluster("b"))
    registry.plugin = "second"
    registry.add(cluster("a"))
    assert (registry.names(), [one.name for one in registry], len(registry)) == (("a", "b"), ["a", "b"], 2)
    assert (registry.owner_of("b"), "a" in registry, "c" in registry) == ("first", True, False)
    with pytest.raises(DuplicatePlugin, match="first and second"):
        registry.add(cluster("b"))
    with pytest.raises(UnknownPlugin, match="installed: a, b") as caught:
        registry.get("zzz", "cluster.name")
    assert caught.value.problems[0].path == "cluster.name"


def test_a_preflight_that_says_what_it_looks_at_is_asked_once_for_all_that_have_it_alike() -> None:
    asked: list[tuple[str, int]] = []

    @hookimpl
    @judges("environment")
    def looks_at_the_environment(experiment: ResolvedExperiment) -> list[Finding]:
        asked.append(("environment", experiment.spec.seed))
        return [Finding(code="seen", message="seen")]

    @hookimpl
    def looks_at_all(experiment: ResolvedExperiment) -> list[Finding]:
        asked.append(("all", experiment.spec.seed))
        return []

    host, known = PluginHost(), KnownFindings()
    for name, hook in (("some", looks_at_the_environment), ("every", looks_at_all)):
        module = types.ModuleType(name)
        setattr(module, "tunewright_preflight", hook)  # noqa: B010  (a module has no such attribute for mypy)
        host.register(module, name)
    tables: dict[str, Any] = {"name": "x", "model": {"name_or_path": "m"}, "dataset": {"mix": [{"source": "s"}]}}
    images = {"kind": "image", "image": "images/one"}
    for seed, environment in ((1, {}), (2, {}), (3, images), (4, images)):
        spec = ExperimentSpec.model_validate({**tables, "seed": seed, "environment": environment})
        found = host.preflight(ResolvedExperiment(spec=spec, project_root="/", home="/h"), known)
        assert [finding.code for finding in found] == ["seen"]
    assert [seed for what, seed in asked if what == "environment"] == [1, 3]
    assert [seed for what, seed in asked if what == "all"] == [1, 2, 3, 4]
