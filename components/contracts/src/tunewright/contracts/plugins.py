"""The plugin host: finds plugins, keeps broken ones apart, and gives every hook a typed method.

The only module that touches pluggy's dynamic side.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from tunewright.contracts import hookspecs
from tunewright.contracts.clusters import ClusterInfo, ClusterRegistry
from tunewright.contracts.costs import CostEstimate
from tunewright.contracts.dataset_plugins import ChatTemplateRegistry, DatasetFormatRegistry
from tunewright.contracts.datasets import CachedDataset, DatasetRequest
from tunewright.contracts.distributions import ReadMetadata, name_and_version
from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import BrokenPlugin, DuplicatePlugin, TunewrightError, Unavailable
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.preflight import Finding
from tunewright.contracts.registry import Registry
from tunewright.contracts.spec import Spec
from tunewright.contracts.variants import VariantInfo, VariantRegistry

ENTRY_POINT_GROUP = "tunewright"

_HOOK_MARK = f"{hookspecs.PROJECT}_impl"

KnownFindings = dict[tuple[str, str], tuple[Finding, ...]]
"""What plugins said already, by the plugin and by what it looked at."""

AnyRegistry = TypeVar("AnyRegistry", bound="Registry[Any]")


@dataclass(frozen=True)
class InstalledPlugin:
    """A plugin that was found, working or not."""

    name: str
    """The entry point's name."""

    distribution: str
    """The distribution that brought it."""

    version: str
    """The distribution's version."""

    module: str
    """The module its entry point names."""

    hooks: tuple[str, ...] = ()
    """The hooks it implements, sorted."""

    error: str = ""
    """Why it is left out, or empty."""

    def __str__(self) -> str:
        return f"`{self.name}` ({self.distribution} {self.version}, {self.module})"


def load_entry(entry: str, owner: str) -> Any:
    """The object `package.module:name` of a plugin. Raises BrokenPlugin naming `owner` where it cannot be had."""
    module_name, _, attribute = entry.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever a plugin's import raises is the plugin's fault, and must name it
        raise BrokenPlugin(f"plugin {owner}: cannot load {entry}: {type(error).__name__}: {error}") from error


def options_type_of(info: ClusterInfo | VariantInfo) -> type[Spec]:
    """What parses the options of a cluster or a variant. Raises BrokenPlugin where it cannot be had."""
    given = info.options_type
    if not isinstance(given, str):
        return given
    loaded = load_entry(given, info.name)
    if not (isinstance(loaded, type) and issubclass(loaded, Spec)):
        raise BrokenPlugin(f"plugin {info.name}: {given} is no Spec, which its options must be")
    return loaded


@dataclass(frozen=True)
class _Entry:
    """An entry point, and who brings it."""

    distribution: str
    version: str
    point: metadata.EntryPoint


class _Manager(pluggy.PluginManager):
    """Looks closer only at what `hookimpl` has marked: pluggy does so at every name of a module, which takes long."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        options = getattr(getattr(plugin, name, None), _HOOK_MARK, None)
        return options if isinstance(options, dict) else None


class PluginHost:
    """All installed plugins. `PluginHost.discover()` is the usual way to make one."""

    def __init__(self) -> None:
        self._manager = _Manager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: dict[str, InstalledPlugin] = {}

    @classmethod
    def discover(cls) -> PluginHost:
        """Load every entry point of the group `tunewright`.

        A plugin that cannot be loaded is kept as broken, with its cause. Two different plugins with one name raise
        DuplicatePlugin naming both.
        """
        host = cls()
        for entry in _entries():
            host._load(entry)
        return host

    def register(self, module: ModuleType, name: str, distribution: str = "(registered by hand)") -> None:
        """Add a plugin without an entry point: for tests."""
        self._register(InstalledPlugin(name, distribution, "-", module.__name__), module)

    def _load(self, entry: _Entry) -> None:
        plugin = InstalledPlugin(entry.point.name, entry.distribution, entry.version, entry.point.value)
        known = self._plugins.get(plugin.name)
        if known is not None:
            if (known.distribution, known.module) == (plugin.distribution, plugin.module):
                return  # the same distribution, seen twice on the path
            raise DuplicatePlugin(
                f"two plugins are called `{plugin.name}`: {known} and {plugin}", "uninstall one of them"
            )
        try:
            module = entry.point.load()
        except Exception as error:  # one broken plugin must not take the others with it
            self._mark_broken(plugin, error)
            return
        self._register(plugin, module)

    def _register(self, plugin: InstalledPlugin, module: object) -> None:
        try:
            self._manager.register(module, plugin.name)
            self._manager.check_pending()
        except Exception as error:  # a hook of a wrong name or with wrong arguments
            if self._manager.has_plugin(plugin.name):
                self._manager.unregister(name=plugin.name)
            self._mark_broken(plugin, error)
            return
        self._plugins[plugin.name] = plugin

    def _mark_broken(self, plugin: InstalledPlugin, error: BaseException) -> None:
        self._plugins[plugin.name] = replace(plugin, error=f"{type(error).__name__}: {error}")

    @property
    def installed(self) -> tuple[InstalledPlugin, ...]:
        """Everything found, by name; broken ones with their error."""
        # The registries find out about plugins that break while they register.
        _ = self.clusters, self.variants
        hooks = self._hooks_by_plugin()
        return tuple(replace(self._plugins[name], hooks=hooks.get(name, ())) for name in sorted(self._plugins))

    def _hooks_by_plugin(self) -> dict[str, tuple[str, ...]]:
        """What each plugin implements, sorted. In one pass: pluggy would go through all hooks for each plugin."""
        hooks: dict[str, list[str]] = {}
        for name, caller in sorted(vars(self._manager.hook).items()):
            for implementation in caller.get_hookimpls():
                hooks.setdefault(implementation.plugin_name, []).append(name)
        return {plugin: tuple(names) for plugin, names in hooks.items()}

    @property
    def versions(self) -> dict[str, str]:
        """Each working plugin's distribution and its version, for the record."""
        working = (plugin for plugin in self.installed if not plugin.error)
        return {plugin.distribution: plugin.version for plugin in sorted(working, key=lambda p: p.distribution)}

    @cached_property
    def clusters(self) -> ClusterRegistry:
        """What `tunewright_register_clusters` gave."""
        return self._fill(ClusterRegistry(), "tunewright_register_clusters")

    @cached_property
    def variants(self) -> VariantRegistry:
        """What `tunewright_register_variants` gave."""
        return self._fill(VariantRegistry(), "tunewright_register_variants")

    @cached_property
    def dataset_formats(self) -> DatasetFormatRegistry:
        """What `tunewright_register_dataset_formats` gave."""
        return self._fill(DatasetFormatRegistry(), "tunewright_register_dataset_formats")

    @cached_property
    def chat_templates(self) -> ChatTemplateRegistry:
        """What `tunewright_register_chat_templates` gave."""
        return self._fill(ChatTemplateRegistry(), "tunewright_register_chat_templates")

    def _fill(self, registry: AnyRegistry, hook: str) -> AnyRegistry:
        for plugin, function in self._implementations(hook):
            registry.plugin = str(plugin)
            try:
                function(register=registry)
            except DuplicatePlugin:
                raise
            except Exception as error:  # the plugin is reported by name and left out
                self._mark_broken(plugin, error)
        return registry

    def _implementations(self, hook: str) -> Iterator[tuple[InstalledPlugin, Any]]:
        """Each working plugin's own implementation of `hook`, in the order of the plugins' names."""
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda one: one.plugin_name):
            plugin = self._plugins[implementation.plugin_name]
            if not plugin.error:
                yield plugin, _with_known_arguments(implementation)

    def preflight(self, experiment: ResolvedExperiment, known: KnownFindings | None = None) -> list[Finding]:
        """Every plugin's findings. One that raises becomes an error finding with its name.

        Whoever asks for many experiments that are much alike gives `known`, empty at first: a plugin that says which
        tables it looks at (`hookspecs.judges`) is asked once for all that have them alike.
        """
        findings: list[Finding] = []
        for plugin, function in self._implementations("tunewright_preflight"):
            if known is None or function.judged_tables is None:
                findings.extend(_judge(plugin, function, experiment))
                continue
            key = (plugin.name, _judged_part(experiment, function.judged_tables))
            if key not in known:
                known[key] = _judge(plugin, function, experiment)
            findings.extend(known[key])
        return findings

    def provide_environment(self, environment: EnvironmentRequest) -> EnvironmentRef:
        """The first plugin's answer. Raises Unavailable where nobody answers."""
        answer = self._first("tunewright_provide_environment", environment=environment)
        if answer is None:
            raise Unavailable(f"no installed plugin provides an environment of kind `{environment.spec.kind}`")
        return answer  # type: ignore[no-any-return]  # pluggy's results are untyped

    def provide_dataset(self, dataset: DatasetRequest, cache_root: str) -> CachedDataset:
        """The first plugin's answer. Raises Unavailable where nobody answers."""
        answer = self._first("tunewright_provide_dataset", dataset=dataset, cache_root=cache_root)
        if answer is None:
            raise Unavailable("no installed plugin provides datasets")
        return answer  # type: ignore[no-any-return]  # pluggy's results are untyped

    def estimate_cost(self, job: JobSpec, hours: float | None) -> CostEstimate | None:
        """The first plugin's answer; None where nobody answers."""
        answer = self._first("tunewright_estimate_cost", job=job, hours=hours)
        if answer is not None and not isinstance(answer, CostEstimate):
            raise BrokenPlugin(f"a plugin gave {type(answer).__name__} in tunewright_estimate_cost, not CostEstimate")
        return answer

    def _first(self, hook: str, **arguments: Any) -> Any:
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        except TunewrightError:
            raise
        except Exception as error:
            raise BrokenPlugin(f"a plugin failed in {hook}: {type(error).__name__}: {error}") from error

    def notify(self, hook: str, **arguments: Any) -> Sequence[str]:
        """Tell every listener of an event hook. Gives one sentence for each listener that raised."""
        complaints = []
        for plugin, function in self._implementations(hook):
            try:
                function(**arguments)
            except Exception as error:  # a listener never harms the run
                complaints.append(f"plugin {plugin} failed in {hook}: {type(error).__name__}: {error}")
        return complaints


def _judge(plugin: InstalledPlugin, function: Any, experiment: ResolvedExperiment) -> tuple[Finding, ...]:
    try:
        return tuple(function(experiment=experiment) or ())
    except Exception as error:  # a plugin that cannot judge must not pass in silence
        message = f"plugin {plugin} failed in preflight: {type(error).__name__}: {error}"
        return (Finding(code="plugin-broken", message=message),)


def _judged_part(experiment: ResolvedExperiment, tables: tuple[str, ...]) -> str:
    """What a plugin looks at, as text."""
    return experiment.model_dump_json(include={"project_root": True, "home": True, "spec": dict.fromkeys(tables, True)})


def _entries() -> Iterator[_Entry]:
    """Our group's entry points, in the order of the path, and those of a distribution in that of their names.

    `importlib.metadata` would read all groups of all distributions, and open each file in three times the time: it is
    asked for what is no directory, as a zip file, and where another finder than Python's own may know more.
    """
    others = [one for one in sys.meta_path if one is not PathFinder and hasattr(one, "find_distributions")]
    if others:
        yield from _entries_of(distribution.read_text for distribution in metadata.distributions(path=sys.path))
        return
    for place in sys.path:
        if os.path.isdir(place or ".") and not place.endswith(".egg"):
            yield from _entries_of(_readers_in(place or "."))
        else:
            yield from _entries_of(distribution.read_text for distribution in metadata.distributions(path=[place]))


def _readers_in(directory: str) -> Iterator[ReadMetadata]:
    """What reads a file of each distribution of the directory."""
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if name.lower().endswith((".dist-info", ".egg-info")):
            yield partial(_read, os.path.join(directory, name))


def _read(directory: str, name: str) -> str | None:
    try:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY)  # half the time of a file object
        try:
            return b"".join(iter(partial(os.read, descriptor, 1 << 16), b"")).decode()
        finally:
            os.close(descriptor)
    except OSError:
        return None


def _entries_of(readers: Iterable[ReadMetadata]) -> Iterator[_Entry]:
    for read in readers:
        points = _own_entry_points(read("entry_points.txt") or "")
        if points:
            name, version = name_and_version(read)
            yield from (_Entry(name, version, point) for point in points)


def _own_entry_points(text: str) -> list[metadata.EntryPoint]:
    """Our group's entry points of one distribution."""
    if ENTRY_POINT_GROUP not in text:
        return []
    lines = "\n".join(("", *text.splitlines()))
    ours = lines.partition(f"\n[{ENTRY_POINT_GROUP}]")[2].partition("\n[")[0]
    pairs = (line.split("=", 1) for line in ours.splitlines() if "=" in line and not line.startswith(("#", ";")))
    found = (metadata.EntryPoint(name.strip(), value.strip(), ENTRY_POINT_GROUP) for name, value in pairs)
    return sorted(found, key=lambda point: point.name)


def _with_known_arguments(implementation: pluggy.HookImpl) -> Any:
    """Its function, called with only the arguments it names: pluggy's rule, kept where we call one by one."""

    def call(**arguments: Any) -> Any:
        return implementation.function(**{name: arguments[name] for name in implementation.argnames})

    call.judged_tables = getattr(implementation.function, hookspecs.JUDGED_TABLES, None)  # type: ignore[attr-defined]  # a function may have some
    return call
