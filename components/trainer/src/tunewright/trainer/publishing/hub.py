"""The final model pushed to a repository on the hub."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tunewright.contracts.errors import InvalidExperiment, Problem, Unavailable
from tunewright.contracts.experiment import PublishSpec
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.observers import Observer

PAUSES_SECONDS = (2.0, 10.0, 30.0)
"""Between the attempts; huggingface_hub itself tries each request again too."""

_REFUSED = {401: "the hub does not accept the token", 403: "the token may not write there"}


class HubPublisher(Observer):
    """Pushes `model/` once it is whole. Where it cannot be, the run fails: the model and its checkpoint stay.

    The run can be started again under its name: it trains nothing anew and pushes.
    """

    def __init__(self, job: TrainingJob, publish: PublishSpec) -> None:
        self._job, self._publish = job, publish

    def started(self, step: int) -> None:
        """Make the repository and the branch: a token that may not write is told of now, not after the training."""
        _patiently(self._publish, _make_repository, PAUSES_SECONDS)

    def model_written(self) -> dict[str, Any]:
        """Push. Gives the repository and the commit."""
        message = f"{self._job.job.run}: {self._job.experiment.name}, experiment {self._job.experiment_digest[:12]}"
        commit = push_model(self._job.run_dir.model, self._publish, message)
        return {"hub_repository": self._publish.hub_repository, "hub_commit": commit}


def push_model(
    model: Path, publish: PublishSpec, message: str, pauses_seconds: Sequence[float] = PAUSES_SECONDS
) -> str:
    """Push every file of `model` to the repository in one commit; files that are there already are not sent again.

    Gives the commit. The endpoint and the token are huggingface_hub's own: `HF_ENDPOINT`, `HF_TOKEN`. Raises
    InvalidExperiment where the hub refuses, Unavailable where it does not answer after all attempts.
    """

    def push(publish: PublishSpec) -> str:
        pushed = _make_repository(publish).upload_folder(
            repo_id=publish.hub_repository, folder_path=model, revision=publish.revision, commit_message=message
        )
        return str(pushed.oid)

    return _patiently(publish, push, pauses_seconds)


Result = TypeVar("Result")


def _patiently(publish: PublishSpec, act: Callable[[PublishSpec], Result], pauses_seconds: Sequence[float]) -> Result:
    """What `act` gives, tried again after each of the pauses where the hub does not answer as it should."""
    for pause in (*pauses_seconds, None):
        try:
            return act(publish)
        except Exception as error:
            status = _status_of(error)
            if status is not None and 400 <= status < 500 and status not in (408, 429):
                raise _refused(publish, status, error) from error
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            if pause is None:
                text = f"publish.hub_repository: {publish.hub_repository} could not be pushed to: {reason}"
                hint = "once the model is whole, launching the run again under its name only pushes it"
                raise Unavailable(text, hint) from error
            print(f"the hub failed ({reason}); again in {pause:g} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _make_repository(publish: PublishSpec) -> Any:
    """The hub's client; the repository and the branch are there."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    hub = HfApi()
    hub.create_repo(publish.hub_repository, private=publish.private, exist_ok=True)
    if publish.revision is not None:
        hub.create_branch(publish.hub_repository, branch=publish.revision, exist_ok=True)
    return hub


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status behind `error`: uploads wrap it in errors of their own."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _refused(publish: PublishSpec, status: int, error: Exception) -> InvalidExperiment:
    reason = _REFUSED.get(status) or str(error).strip().split("\n")[0]
    hint = "a token that may write comes as HF_TOKEN, by [cluster.secrets]" if status in _REFUSED else ""
    problem = Problem("publish.hub_repository", f"{publish.hub_repository}: {reason}", hint)
    return InvalidExperiment.from_problems("the hub", [problem])
