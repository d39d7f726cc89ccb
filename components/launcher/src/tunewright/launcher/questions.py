"""What the launcher asks of plugins for one experiment: an environment, a dataset, and one to evaluate on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tunewright.contracts.datasets import CachedDataset, DatasetRequest
from tunewright.contracts.environments import CodeOrigin, EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.experiment import DatasetSpec, ResolvedExperiment
from tunewright.contracts.jobs import ModelReference

ASKED_ABOUT = frozenset({"environment", "model", "dataset", "evaluation", "seed", "job"})
"""The tables and keys of an experiment that decide what is asked."""


class Answerer(Protocol):
    """Who answers: the plugin host, or somebody who has asked it before."""

    def provide_environment(self, environment: EnvironmentRequest) -> EnvironmentRef:
        """What the job runs in."""

    def provide_dataset(self, dataset: DatasetRequest, cache_root: str) -> CachedDataset:
        """What it trains on."""


class RememberedAnswers:
    """Asks each question once: equal requests get the answer that the first one got."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._environments: dict[str, EnvironmentRef] = {}
        self._datasets: dict[tuple[str, str], CachedDataset] = {}

    def provide_environment(self, environment: EnvironmentRequest) -> EnvironmentRef:
        """As the one it asks."""
        key = environment.model_dump_json()
        if key not in self._environments:
            self._environments[key] = self._answerer.provide_environment(environment)
        return self._environments[key]

    def provide_dataset(self, dataset: DatasetRequest, cache_root: str) -> CachedDataset:
        """As the one it asks."""
        key = (cache_root, dataset.model_dump_json())
        if key not in self._datasets:
            self._datasets[key] = self._answerer.provide_dataset(dataset, cache_root)
        return self._datasets[key]


@dataclass(frozen=True)
class Prepared:
    """What a job runs in and on. In a plan: what it would be."""

    environment: EnvironmentRef
    dataset: CachedDataset
    evaluation_dataset: CachedDataset | None = None
    """Where `[evaluation]` has sources of its own."""


@dataclass(frozen=True)
class Questions:
    """The questions of one experiment. With `plan_only` the answers only name what there would be."""

    experiment: ResolvedExperiment
    code: CodeOrigin
    tokenizer: ModelReference
    """The model whose tokenizer encodes the datasets."""

    chat_template: str
    cache_root: str
    host: Answerer
    code_root: str | None = None
    """Where the code lies that the environment is built from; None: in the project itself."""

    def plan(self) -> Prepared:
        """What there would be. Builds nothing, writes nothing, opens no socket."""
        dataset, evaluation = self.dataset(plan_only=True), self.evaluation_dataset(plan_only=True)
        return Prepared(self.environment(plan_only=True), dataset, evaluation)

    def environment(self, plan_only: bool = False) -> EnvironmentRef:
        """What the job runs in, built where it is not there yet."""
        request = EnvironmentRequest(
            spec=self.experiment.spec.environment,
            project_root=self.code_root or self.experiment.project_root,
            home=self.experiment.home,
            code=self.code,
            plan_only=plan_only,
        )
        return self.host.provide_environment(request)

    def dataset(self, plan_only: bool = False) -> CachedDataset:
        """What it trains on, prepared where it is not there yet. `[evaluation]` does not decide it."""
        return self._provide(self.experiment.spec.dataset, plan_only)

    def evaluation_dataset(self, plan_only: bool = False) -> CachedDataset | None:
        """What it is evaluated on, prepared where it is not there yet; None where `[evaluation]` has no sources."""
        sources = self.experiment.spec.evaluation_dataset
        if sources is None:
            return None
        with _naming_evaluation():
            return self._provide(sources, plan_only)

    def _provide(self, dataset: DatasetSpec, plan_only: bool) -> CachedDataset:
        request = DatasetRequest(
            dataset=dataset,
            tokenizer=self.tokenizer.name_or_path,
            tokenizer_revision=self.tokenizer.revision,
            chat_template=self.chat_template,
            seed=self.experiment.spec.seed,
            project_root=self.experiment.project_root,
            plan_only=plan_only,
        )
        return self.host.provide_dataset(request, self.cache_root)


@contextmanager
def _naming_evaluation() -> Iterator[None]:
    """Whoever prepares datasets knows one mix: here it is the other one that is wrong."""
    try:
        yield
    except TunewrightError as error:
        error.message = error.message.replace("dataset.mix", "evaluation.mix")
        raise
