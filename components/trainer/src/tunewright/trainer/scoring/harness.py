"""Tasks of lm-evaluation-harness on the same model, where the environment has it.

https://github.com/EleutherAI/lm-evaluation-harness; tried with version 0.4.13.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import EvaluateSpec, ExperimentSpec

if TYPE_CHECKING:
    from tunewright.trainer.scoring.model import ScoredModel

PACKAGE = "lm_eval"
_KEY = "evaluate.harness_tasks"


def refuse_missing_harness(experiment: ExperimentSpec) -> None:
    """Raise InvalidExperiment where tasks are asked for and the harness is not installed here."""
    tasks = experiment.evaluate.harness_tasks
    if experiment.job == "evaluate" and tasks and importlib.util.find_spec(PACKAGE) is None:
        message = f"asks for {', '.join(tasks)}, and this environment has no lm-evaluation-harness"
        hint = "add `lm-eval` to the environment (an image of your own, or the lock that PEXes are built from)"
        raise InvalidExperiment.from_problems(experiment.name, [Problem(_KEY, message, hint)])


def refuse_unknown_tasks(settings: EvaluateSpec) -> None:
    """Raise InvalidExperiment for tasks that the harness has not, before hours are spent on the others."""
    if not settings.harness_tasks:
        return
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]  # pants: no-infer-dep

    known = set(TaskManager().all_tasks)
    unknown = [task for task in settings.harness_tasks if task not in known and not Path(task).is_file()]
    if unknown:
        message = f"the harness knows no {', '.join(f'`{task}`' for task in unknown)}"
        hint = "`lm-eval ls tasks` lists them; a task of your own is the path of its YAML file"
        raise InvalidExperiment.from_problems("the evaluation", [Problem(_KEY, message, hint)])


def run_harness(scored: ScoredModel, settings: EvaluateSpec, seed: int) -> dict[str, Any]:
    """The metrics of each task, by the harness's own names without its filters: `{"task": {"acc": 0.5}}`."""
    from lm_eval import simple_evaluate  # type: ignore[import-not-found]  # pants: no-infer-dep
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found]  # pants: no-infer-dep

    from tunewright.trainer.session import transformer_of

    transformer_of(scored.model).generation_config.eos_token_id = sorted(scored.own_ends) or None
    model = HFLM(pretrained=scored.model, tokenizer=scored.tokenizer, batch_size=settings.batch_size)
    found = simple_evaluate(
        model=model,
        tasks=list(settings.harness_tasks),
        limit=settings.harness_rows,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
        bootstrap_iters=0,
    )
    return {task: _numbers(measured) for task, measured in (found or {}).get("results", {}).items()}


def _numbers(measured: dict[str, Any]) -> dict[str, float]:
    """The metrics of a task that are numbers, but for their standard errors, which are not estimated."""
    numbers = {name: value for name, value in measured.items() if isinstance(value, int | float) and "," in name}
    names = [name.partition(",")[0] for name in numbers]
    return {
        name.partition(",")[0] if names.count(name.partition(",")[0]) == 1 else name: float(value)
        for name, value in numbers.items()
        if "_stderr" not in name and math.isfinite(value)
    }
