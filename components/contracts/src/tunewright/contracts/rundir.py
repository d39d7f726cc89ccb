"""Every path of a run, in one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDir:
    """`$TUNEWRIGHT_HOME/runs/<run>/`: one value a file, the one that vouches written last."""

    path: Path
    """Absolute path of the run's directory; it need not exist."""

    @classmethod
    def of(cls, home: Path, run: str) -> RunDir:
        """The directory of run `run` below `home`; it need not exist."""
        return cls(home / "runs" / run)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def experiment(self) -> Path:
        """The experiment as written."""
        return self.path / "experiment.toml"

    @property
    def resolved(self) -> Path:
        """The experiment with all defaults, as JSON."""
        return self.path / "resolved.json"

    @property
    def patch(self) -> Path:
        """With `--allow-dirty`: what the tree had beyond its commit."""
        return self.path / "dirty.patch"

    @property
    def preflight(self) -> Path:
        """The findings of preflight."""
        return self.path / "preflight.json"

    @property
    def estimate(self) -> Path:
        """What it was thought to take and to cost, where anything of that was known."""
        return self.path / "estimate.json"

    @property
    def environment(self) -> Path:
        """The environment: PEX SHA-256 or image digest, lock digest."""
        return self.path / "environment.json"

    @property
    def dataset(self) -> Path:
        """The dataset: cache digest, rows, tokens."""
        return self.path / "dataset.json"

    @property
    def evaluation_dataset(self) -> Path:
        """The dataset it is evaluated on, where `[evaluation]` has sources of its own."""
        return self.path / "evaluation_dataset.json"

    @property
    def job(self) -> Path:
        """The job: all the trainer reads."""
        return self.path / "job.json"

    @property
    def plan(self) -> Path:
        """Directory: exactly what the cluster got."""
        return self.path / "plan"

    @property
    def submission(self) -> Path:
        """The idempotency key of the newest submission, written before it is sent."""
        return self.path / "submission.json"

    @property
    def handle(self) -> Path:
        """The cluster's own id of the job."""
        return self.path / "handle.json"

    @property
    def events(self) -> Path:
        """Every change of state, with time and cause, a line each."""
        return self.path / "events.jsonl"

    @property
    def logs(self) -> Path:
        """Directory: logs per replica."""
        return self.path / "logs"

    @property
    def metrics(self) -> Path:
        """A line per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Directory: `step-000020/` and so on."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Directory: what a user loads with transformers or peft."""
        return self.path / "model"

    @property
    def evaluation(self) -> Path:
        """What an `evaluate` job has measured: metrics, counts, settings."""
        return self.path / "evaluation.json"

    @property
    def evaluation_rows(self) -> Path:
        """What an `evaluate` job has found of each row, a line each."""
        return self.path / "evaluation_rows.jsonl"

    @property
    def training(self) -> Path:
        """What the trainer itself saw: steps, hardware, packages, determinism. Becomes part of the record."""
        return self.path / "training.json"

    @property
    def reproduction(self) -> Path:
        """Of a run that `reproduce` made: what is the same as in the run it repeats, and what differs."""
        return self.path / "reproduction.json"

    @property
    def provenance(self) -> Path:
        """The record, last of all."""
        return self.path / "provenance.json"
