"""What the launcher sends and what a cluster gives back: job, plan, handle."""

from __future__ import annotations

from pydantic import Field

from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.environments import CodeOrigin, EnvironmentRef
from tunewright.contracts.experiment import ExperimentSpec, ModelSpec
from tunewright.contracts.spec import Spec


class ModelReference(Spec):
    """The model a job starts from, resolved."""

    name_or_path: str
    """Absolute path of a directory, or a hub id."""

    revision: str | None = None
    """The commit of a hub id."""

    sha256: str | None = None
    """SHA-256 over the directory's files (`sha256_of_tree`). None for a hub id: its revision says it."""

    run: str | None = None
    """The run that left it, where the experiment said `run:NAME`."""


class LaunchOrigin(Spec):
    """Who launched it, from what, with which plugins."""

    code: CodeOrigin
    """The code the run is made of."""

    user: str
    """Who launched it."""

    host: str
    """The machine it was launched from."""

    plugins: dict[str, str]
    """Each plugin's distribution and version."""

    first_model: ModelSpec | None = None
    """Of a stage that goes on with another's model: whose tokenizer and template the datasets were prepared with."""


class Resources(Spec):
    """What the job asks for."""

    nodes: int = Field(default=1, ge=1)
    """Machines."""

    processes_per_node: int = Field(default=1, ge=1)
    """Training processes on each, one per GPU where there are GPUs."""


class JobSpec(Spec):
    """A job, whole: with its environment it can be run again from this file alone. Written to `job.json`.

    The command runs once on each node, every argument arriving as it is written here. The cluster adds these
    variables and nothing else of its own or of the client's: `TUNEWRIGHT_ATTEMPT` (0, 1, ...), and with more than
    one node `TUNEWRIGHT_NODE_RANK`, `TUNEWRIGHT_MASTER_ADDRESS` and `TUNEWRIGHT_MASTER_PORT`. The trainer starts
    the node's processes itself (torchrun), so that no cluster rewrites commands.
    """

    schema_version: int = Field(default=1, alias="schema")
    """The version of this format."""

    run: str
    """The run's name."""

    run_dir: str
    """Absolute path of the run's directory, as the nodes see it."""

    command: tuple[str, ...] = Field(min_length=1)
    """An argument list, never a shell string."""

    variables: dict[str, str] = {}
    """Plain variables: the environment's and the user's."""

    secrets: dict[str, str] = {}
    """Variable to the name of a secret. The cluster resolves it; the value is in no file of ours."""

    resources: Resources = Resources()
    """What the job asks for."""

    max_retries: int = Field(default=0, ge=0)
    """Starts after the first that the cluster may make when the job fails or is preempted."""

    experiment: ExperimentSpec | None = None
    """Resolved. None only for a job that is no training (a cluster's conformance tests)."""

    model: ModelReference | None = None
    """The model it starts from. None only for a job that is no training."""

    environment: EnvironmentRef | None = None
    """What it runs in. None only for a job that is no training."""

    dataset: CachedDataset | None = None
    """What it trains on. None only for a job that is no training."""

    evaluation_dataset: CachedDataset | None = None
    """What it is evaluated on while it trains, where `[evaluation]` has sources of its own."""

    origin: LaunchOrigin | None = None
    """Who launched it, from what code. None only for a job that is no training."""


class PlannedFile(Spec):
    """One thing the cluster gets, as text: an sbatch script, a pod's YAML, the argument list of a process."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Its file name in the run's `plan/`."""

    text: str
    """Its content."""


class SubmissionPlan(Spec):
    """Exactly what a cluster will get. `submit` sends this and decides nothing more. Secrets are references."""

    cluster: str
    """The name of the cluster that made it, and that will get it."""

    run: str
    """The run's name."""

    files: tuple[PlannedFile, ...] = Field(min_length=1)
    """In the cluster's own words, kept in the run's `plan/`. The first one is the main one."""

    def text_of(self, name: str) -> str:
        """The text of the planned file `name`. A KeyError is a bug of the plugin."""
        for file in self.files:
            if file.name == name:
                return file.text
        raise KeyError(name)


class JobHandle(Spec):
    """A submitted job. Hashable; written to `handle.json`."""

    cluster: str
    """The name of the cluster that has the job."""

    native_id: str
    """The cluster's own id: what its own tools would be asked with."""

    data: str = ""
    """What else the plugin needs to find the job again. Plain text of the plugin's own making, no secrets."""
