"""The experiment file, typed: what a user writes in TOML, one class a table."""

from __future__ import annotations

import itertools
import re
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator, model_validator

from tunewright.contracts.spec import Spec, digest_of

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

EXCLUSIVE_KEYS = (
    ("fraction", "rows"), ("num_epochs", "max_steps"), ("every_steps", "every"), ("mix", "fraction"), ("mix", "rows"),
    ("answer_after", "answer_pattern"),
)  # fmt: skip
"""Pairs of keys of one table that say the same thing in two ways: a file may have one of each."""


def excluded_by(key: str) -> frozenset[str]:
    """The keys that a table may not have beside `key`."""
    return _EXCLUDED.get(key, frozenset())


_EXCLUDED = {
    key: frozenset(other for pair in EXCLUSIVE_KEYS if key in pair for other in pair if other != key)
    for key in itertools.chain(*EXCLUSIVE_KEYS)
}


def _one_of(values: Any, first: str, second: str, default: dict[str, Any], wanted: str) -> Any:
    """`values` with `default` filled in where neither key is there; an error where both are."""
    if not isinstance(values, dict):
        return values
    if values.get(first) is not None and values.get(second) is not None:
        raise ValueError(f"`{first}` and `{second}` exclude each other: {wanted}")
    if values.get(first) is None and values.get(second) is None:
        return {**values, **default}
    return values


class EnvironmentSpec(Spec):
    """`[environment]`: what the job runs in."""

    kind: Literal["pex", "image"] = "pex"
    """`pex` needs nothing but Python on the nodes; `image` needs a container engine."""

    image: str | None = None
    """With `kind = "image"`: a docker_image target of the repository, or a reference with a digest."""

    @model_validator(mode="after")
    def _image_goes_with_kind(self) -> EnvironmentSpec:
        if self.kind == "image" and not self.image:
            raise ValueError('`kind = "image"` needs `image`: a docker_image target, or a reference with a digest')
        if self.kind == "pex" and self.image:
            raise ValueError('`image` goes with `kind = "image"` only')
        return self


class ModelSpec(Spec):
    """`[model]`: where training starts."""

    name_or_path: str = Field(min_length=1)
    """A directory, a hub id (with `revision`), or `run:NAME`: the model that run NAME left."""

    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit of a hub id, 40 hexadecimal digits. A branch name would not be reproducible."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` draws the weights from the configuration; `seed` decides them."""

    chat_template: str = "tokenizer"
    """A registered template's name, or `tokenizer` for the one the tokenizer brings."""

    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """`auto` takes the fastest that is installed and exact for packed rows."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the forward pass computes in. Master weights of trained parameters stay float32."""

    resize_embeddings: Literal["never", "when_needed"] = "never"
    """`when_needed` adds rows where the tokenizer has more tokens than the model; `never` makes that an error."""

    pad_embeddings_to_multiple_of: int | None = Field(default=None, ge=1)
    """With `when_needed`: the number of rows is rounded up to a multiple of this, which GPUs prefer."""

    @model_validator(mode="after")
    def _padding_goes_with_growing(self) -> ModelSpec:
        if self.pad_embeddings_to_multiple_of is not None and self.resize_embeddings == "never":
            raise ValueError('`pad_embeddings_to_multiple_of` goes with `resize_embeddings = "when_needed"` only')
        return self


FilterValue = StrictBool | StrictInt | StrictFloat | StrictStr


class RowFilter(Spec):
    """`dataset.mix[].filters`: a condition on one column. Every key that is given must hold. No value meets none."""

    column: str = Field(min_length=1)
    """The column as the source calls it; `meta.language` is `language` of the object `meta`."""

    equals: FilterValue | None = None
    """It is this value. Text, numbers and true or false are never equal to one another."""

    not_equals: FilterValue | None = None
    """It is another value than this."""

    is_in: tuple[FilterValue, ...] | None = Field(default=None, min_length=1)
    """It is one of these values."""

    not_in: tuple[FilterValue, ...] | None = Field(default=None, min_length=1)
    """It is none of these values."""

    at_least: StrictFloat | StrictInt | None = None
    """A number not below this. In CSV files, where all is text, the number that the text spells."""

    at_most: StrictFloat | StrictInt | None = None
    """A number not above this."""

    min_characters: int | None = Field(default=None, ge=0)
    """Text of at least this length; of a list of messages, all their contents together."""

    max_characters: int | None = Field(default=None, ge=0)
    """Text of at most this length; of a list of messages, all their contents together."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> RowFilter:
        conditions = [name for name in type(self).model_fields if name != "column"]
        if all(getattr(self, name) is None for name in conditions):
            raise ValueError(f"has no condition: give one of {', '.join(f'`{name}`' for name in conditions)}")
        return self


class DatasetSource(Spec):
    """`[[dataset.mix]]`: one source of conversations and how much of it."""

    source: str = Field(min_length=1)
    """A file, a glob, a directory, a hub id with `revision`, or an `s3://` or `gs://` URL."""

    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit of a hub id, 40 hexadecimal digits."""

    config: str | None = Field(default=None, min_length=1)
    """The configuration of a hub dataset that has several."""

    split: str | None = Field(default=None, pattern=r"^\w+(\.\w+)*$")
    """The split of a hub dataset or of a directory that has one folder or file for each; `train` of hub datasets."""

    format: str = "messages"
    """`messages`, `prompt_completion`, `alpaca`, `sharegpt`, `question_answer`, `preference`, or a plugin's."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Names that the format reads to columns of the source that hold them: `{messages = "conversation"}`."""

    filters: tuple[RowFilter, ...] = ()
    """Conditions on the source's own columns. Only rows that meet all of them are there, for `fraction` and `rows`."""

    system_prompt: str | None = Field(default=None, min_length=1)
    """Put before every conversation that has no system message."""

    fraction: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the rows, above 0. 1.0 is all of them in order; above 1.0 repeats, with a note. Excludes `rows`."""

    rows: int | None = Field(default=None, ge=1)
    """Number of rows; more than there are repeats, with a note. Excludes `fraction`."""

    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    """Which tokens count in the loss: every assistant turn, the last one, or everything."""

    @model_validator(mode="before")
    @classmethod
    def _fraction_or_rows(cls, values: Any) -> Any:
        return _one_of(values, "fraction", "rows", {"fraction": 1.0}, "give a share or a number of rows")


class DatasetSpec(Spec):
    """`[dataset]`: what is trained on."""

    max_length_tokens: int = Field(default=2048, ge=2)
    """Tokens a sequence may have; a longer conversation is cut at the right end. Also the size of a packed row."""

    packing: bool = False
    """Put several conversations into one row of `max_length_tokens`; attention stays inside each."""

    shuffle: bool = False
    """Shuffle the rows of the cache by `seed`. The trainer shuffles each epoch anyway."""

    max_dropped_fraction: float = Field(default=0.9, ge=0, le=1)
    """Share of the rows, 0 to 1, that may be left out because nothing in them can be trained; more are an error."""

    mix: tuple[DatasetSource, ...] = Field(min_length=1)
    """The sources, in order. At least one."""


_SCHEDULERS_OF = {
    "decay_ratio": ("warmup_stable_decay",),
    "min_learning_rate_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
}


class TrainingSpec(Spec):
    """`[training]`: how it is trained."""

    variant: str = "full"
    """`full`, `lora`, `qlora`, `dpo`, `reward_model`, or what a plugin registers."""

    num_epochs: int | None = Field(default=None, ge=1)
    """Passes over the dataset. Excludes `max_steps`; 1 where neither is given."""

    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. The dataset is repeated as often as that takes."""

    batch_size: int = Field(default=16, ge=1)
    """Sequences (packed rows, with packing) per optimizer step over all processes."""

    micro_batch_size: int = Field(default=1, ge=1)
    """Sequences per forward pass of one process. Accumulation follows from `batch_size`."""

    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"] = "adamw"
    """`*_8bit` and `paged_*` are bitsandbytes'; `muon` is torch's for matrices, with AdamW for everything else."""

    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    """The peak of the schedule. Above 0."""

    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "cosine_with_min_lr", "warmup_stable_decay",
    ] = "linear"  # fmt: skip
    """The shape of the learning rate after warm-up, by transformers' names."""

    warmup_ratio: float = Field(default=0.0, ge=0, le=1)
    """Share of all steps over which the learning rate rises from 0."""

    decay_ratio: float = Field(default=0.1, gt=0, le=1)
    """`warmup_stable_decay` only: share of all steps, at the end, over which the learning rate falls."""

    min_learning_rate_ratio: float = Field(default=0.0, ge=0, lt=1)
    """`cosine_with_min_lr` and `warmup_stable_decay` only: where the learning rate ends, as a share of its peak."""

    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Decoupled weight decay; biases and norms are left out."""

    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay of the first moment."""

    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay of the second moment."""

    adam_epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's term against division by zero."""

    max_grad_norm: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Gradients are scaled down to this global norm. 0 turns clipping off; the norm is logged either way."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target's probability that is spread over the whole vocabulary."""

    neftune_noise_alpha: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Strength of the noise on embeddings in training (NEFTune, https://arxiv.org/abs/2310.05914). 0: none."""

    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""

    compile: bool = False
    """Let torch compile the model: the first steps take longer, later ones less. Pays on long runs."""

    deterministic: bool = True
    """Only kernels that give the same bits each time, where there are such. False can be faster on a GPU."""

    peak_tflops: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What one device can do in `model.dtype`, in 10^12 operations a second, for `mfu`. None: known for common GPUs."""

    log_every_steps: int = Field(default=1, ge=1)
    """Optimizer steps between two lines of `metrics.jsonl`."""

    strategy: Literal["ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"] = "ddp"
    """How several processes share the work."""

    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """With `deepspeed_*`: what is kept in the host's memory. `optimizer_and_parameters` needs `deepspeed_zero3`."""

    max_worker_restarts: int = Field(default=0, ge=0)
    """How often the processes of a node are started again in place, from the last checkpoint, when one dies."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The variant's own options; the variant checks them."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_or_steps(cls, values: Any) -> Any:
        return _one_of(values, "num_epochs", "max_steps", {"num_epochs": 1}, "give passes or optimizer steps")

    @model_validator(mode="after")
    def _offload_goes_with_deepspeed(self) -> TrainingSpec:
        if self.offload != "none" and not self.strategy.startswith("deepspeed_"):
            raise ValueError(f'`offload = "{self.offload}"` needs a `deepspeed_*` strategy, not `{self.strategy}`')
        if self.offload == "optimizer_and_parameters" and self.strategy != "deepspeed_zero3":
            raise ValueError('`offload = "optimizer_and_parameters"` needs `strategy = "deepspeed_zero3"`')
        return self

    @model_validator(mode="after")
    def _optimizer_goes_with_strategy(self) -> TrainingSpec:
        if self.optimizer != "adamw" and self.strategy != "ddp":
            raise ValueError(
                f'`optimizer = "{self.optimizer}"` needs `strategy = "ddp"`, where each process has whole matrices; '
                f"`{self.strategy}` goes with `adamw`"
            )
        return self

    @model_validator(mode="after")
    def _keys_go_with_their_scheduler(self) -> TrainingSpec:
        for key, owners in _SCHEDULERS_OF.items():
            is_given = getattr(self, key) != _SCHEDULER_DEFAULTS[key]
            if is_given and self.lr_scheduler not in owners:
                wanted = " or ".join(f"`{owner}`" for owner in owners)
                raise ValueError(f"`{key}` goes with `lr_scheduler` {wanted} only, not `{self.lr_scheduler}`")
        if self.lr_scheduler == "warmup_stable_decay" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"`warmup_ratio` ({self.warmup_ratio}) and `decay_ratio` ({self.decay_ratio}) are more than all steps"
            )
        return self


_SCHEDULER_DEFAULTS = {key: TrainingSpec.model_fields[key].default for key in _SCHEDULERS_OF}


class CheckpointSpec(Spec):
    """`[checkpoint]`: what survives a crash."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between checkpoints: what a killed run repeats at most. Excludes `every`."""

    every: Literal["epoch"] | None = None
    """`epoch`: a checkpoint after each pass over the data. The default."""

    keep_last: int = Field(default=2, ge=1)
    """How many checkpoints stay; older ones are removed once a newer one is whole."""

    copy_to: str | None = Field(default=None, pattern=r"^(s3|gs)://.+")
    """An `s3://` or `gs://` URL below which checkpoints are copied: a run that lost its directory goes on from it."""

    background: Literal["auto", "always", "never"] = "auto"
    """Write while the next steps are computed, from a copy in the host's memory. `auto`: where there is a GPU."""

    @model_validator(mode="before")
    @classmethod
    def _steps_or_epoch(cls, values: Any) -> Any:
        return _one_of(values, "every_steps", "every", {"every": "epoch"}, "give steps or `epoch`")


class EvaluationSpec(Spec):
    """`[evaluation]`: the loss on rows that are not trained on, while training."""

    mix: tuple[DatasetSource, ...] = ()
    """Sources of their own, prepared as `[dataset]` is. Excludes `fraction` and `rows`."""

    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the dataset's rows that is held out, drawn by `seed`: packed rows with packing."""

    rows: int | None = Field(default=None, ge=1)
    """Number of the dataset's rows that is held out."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between evaluations. Excludes `every`. There is always one after the last step."""

    every: Literal["epoch"] | None = None
    """`epoch`: an evaluation after each pass over the data. The default."""

    early_stop_patience: int | None = Field(default=None, ge=1)
    """Stop once this many evaluations in a row have not been better than the best. None: train to the end."""

    keep_best: bool = False
    """Keep the checkpoint with the lowest loss, and write `model/` from it instead of from the last step."""

    @model_validator(mode="before")
    @classmethod
    def _steps_or_epoch(cls, values: Any) -> Any:
        return _one_of(values, "every_steps", "every", {"every": "epoch"}, "give steps or `epoch`")

    @model_validator(mode="after")
    def _one_way_to_get_rows(self) -> EvaluationSpec:
        if sum((bool(self.mix), self.fraction is not None, self.rows is not None)) != 1:
            raise ValueError("give one of `mix`, `fraction` and `rows`: what is evaluated on")
        return self


class EvaluateSpec(Spec):
    """`[evaluate]`: what a job with `job = "evaluate"` measures of the model, on the rows of `[dataset]`."""

    metrics: tuple[Literal["loss", "exact_match"], ...] = ("loss", "exact_match")
    """`loss`: of the tokens that `train_on` names. `exact_match`: the model itself writes the row's last answer."""

    rows: int | None = Field(default=None, ge=1)
    """How many rows of the dataset, the first ones. None: all."""

    batch_size: int = Field(default=8, ge=1)
    """Rows that one process computes at a time."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens an answer may have. One that is longer is cut."""

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0 takes the most likely token each time. Above 0 tokens are drawn, by `seed`."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """With a `temperature`: only the most likely tokens that together have this probability are drawn from."""

    answer_after: str | None = Field(default=None, min_length=1)
    """What is compared is the text after the last of these: `"####"`. Excludes `answer_pattern`."""

    answer_pattern: str | None = Field(default=None, min_length=1)
    """What is compared is the last match of this regular expression: its group 1, or all of it without groups."""

    normalize: tuple[Literal["whitespace", "case", "punctuation", "numbers"], ...] = ("whitespace",)
    """What does not count in a comparison: runs of white space, case, ASCII punctuation, how a number is written."""

    harness_tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, where the environment has it installed. One process only."""

    harness_rows: int | None = Field(default=None, ge=1)
    """How many rows of each of those tasks, the first ones. None: all."""

    @field_validator("answer_pattern")
    @classmethod
    def _is_regular_expression(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"`{pattern}` is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _keys_go_together(self) -> EvaluateSpec:
        if not self.metrics and not self.harness_tasks:
            raise ValueError("nothing is measured: give `metrics` or `harness_tasks`")
        if self.answer_after is not None and self.answer_pattern is not None:
            raise ValueError("`answer_after` and `answer_pattern` exclude each other: give one place of the answer")
        if self.top_p != 1.0 and self.temperature == 0:
            raise ValueError("`top_p` goes with a `temperature` above 0 only")
        return self


class ExportSpec(Spec):
    """`[export]`: what a job with `job = "export"` makes of the model."""

    merge: bool = True
    """Add adapters to their base, in float32: a model of its own. A model without adapters is taken as it is."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What weights are written in. None: as they are, merged ones in float32."""

    max_shard_size: str = Field(default="50GB", pattern=r"^[1-9][0-9]*(KB|MB|GB)$")
    """The most a weights file may have: `5GB`, `500MB`. A larger model is written in several."""


class TrackingSpec(Spec):
    """`[tracking]`: where metrics go beside `metrics.jsonl`."""

    to: tuple[Literal["mlflow", "tensorboard", "wandb", "trackio"], ...] = ()
    """None by default: nothing leaves the machine unless asked for."""

    project: str = "tunewright"
    """What trackers file the run under: MLflow's experiment, W&B's and trackio's project."""

    registered_model: str | None = Field(default=None, min_length=1)
    """With `mlflow`: the model's name in its registry; each run adds a version. None: nothing is registered."""


class PublishSpec(Spec):
    """`[publish]`: where the final model goes."""

    hub_repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """`owner/name` on the hub; made if it is not there. The token comes from `HF_TOKEN`, by `[cluster.secrets]`."""

    private: bool = True
    """A repository that is made is private."""

    revision: str | None = Field(default=None, min_length=1)
    """The branch to push to; made if it is not there. None: the default branch."""


class NotificationsSpec(Spec):
    """`[notifications]`: a webhook that hears what becomes of the run."""

    webhook_variable: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The variable that holds the webhook's URL, which is a secret: name it in `[cluster.secrets]` too, for the job."""

    format: Literal["slack", "json"] = "slack"
    """`slack`: a sentence, as Slack, Mattermost and others take it; `json`: the facts, for a program."""

    on: tuple[Literal["submitted", "checkpoint", "succeeded", "failed", "stopped"], ...] = Field(
        default=("succeeded", "failed", "stopped"), min_length=1
    )
    """What it hears of. A run that ran out of time has failed."""


class ClusterSpec(Spec):
    """`[cluster]`: where the job runs."""

    name: str = "local"
    """The cluster plugin."""

    nodes: int = Field(default=1, ge=1)
    """Machines."""

    processes_per_node: int = Field(default=1, ge=1)
    """Training processes on each node: the GPUs of a node, where there are GPUs."""

    max_retries: int = Field(default=0, ge=0)
    """How often a failed or preempted job is started again, from its last checkpoint."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The cluster plugin's own options; the plugin checks them."""

    environment: dict[str, str] = Field(default_factory=dict)
    """Plain variables for the job. They are written down: a secret goes to `secrets`."""

    secrets: dict[str, str] = Field(default_factory=dict)
    """Variable to secret's name. The cluster fills in the value; it is never written down."""

    @field_validator("environment", "secrets")
    @classmethod
    def _variable_names(cls, variables: dict[str, str]) -> dict[str, str]:
        for name in variables:
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"`{name}` is no variable name: it is empty or holds `=`")
        return variables


class ExperimentSpec(Spec):
    """An experiment: everything that decides what is trained, on what, and where."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    """The version of this format."""

    name: str = Field(pattern=NAME_PATTERN)
    """Letters, digits, `.`, `_` and `-`, at most 63. Runs are named after it."""

    job: Literal["train", "evaluate", "export"] = "train"
    """What is done with the model: `evaluate` and `export` leave it as it is, and `[training]` says nothing to them."""

    seed: int = Field(default=17, ge=0, lt=2**32)
    """Decides random weights, sampling, order and dropout."""

    environment: EnvironmentSpec = EnvironmentSpec()
    """What the job runs in."""

    model: ModelSpec
    """Where training starts."""

    dataset: DatasetSpec
    """What is trained on."""

    training: TrainingSpec = TrainingSpec.model_validate({})
    """How it is trained."""

    checkpoint: CheckpointSpec = CheckpointSpec.model_validate({})
    """When the state is saved, and how much of it is kept."""

    evaluation: EvaluationSpec | None = None
    """The loss on rows that are not trained on. None: no evaluation."""

    evaluate: EvaluateSpec = EvaluateSpec.model_validate({})
    """What `job = "evaluate"` measures. Other jobs do not read it."""

    export: ExportSpec = ExportSpec.model_validate({})
    """What `job = "export"` makes. Other jobs do not read it."""

    tracking: TrackingSpec = TrackingSpec()
    """Where metrics go besides `metrics.jsonl`."""

    publish: PublishSpec | None = None
    """Where the final model goes. None: it stays in the run."""

    notifications: NotificationsSpec | None = None
    """Who hears what becomes of the run. None: nobody."""

    cluster: ClusterSpec = ClusterSpec()
    """Where the job runs."""

    @model_validator(mode="after")
    def _batch_divides(self) -> ExperimentSpec:
        processes = self.cluster.nodes * self.cluster.processes_per_node
        per_pass = self.training.micro_batch_size * processes
        if self.job == "train" and self.training.batch_size % per_pass:
            raise ValueError(
                f"training.batch_size ({self.training.batch_size}) must be a multiple of training.micro_batch_size "
                f"({self.training.micro_batch_size}) x processes ({processes}) = {per_pass}"
            )
        return self

    @model_validator(mode="after")
    def _job_has_what_it_needs(self) -> ExperimentSpec:
        if self.job == "export" and self.model.weights == "random":
            raise ValueError('`model.weights = "random"` has nothing to export: give a trained model')
        if self.job != "evaluate":
            return self
        for index, source in enumerate(self.dataset.mix if "exact_match" in self.evaluate.metrics else ()):
            if source.train_on == "all":
                raise ValueError(
                    f'dataset.mix[{index}].train_on is "all", so that nobody can tell the answer that `exact_match` of '
                    'evaluate.metrics compares from its prompt: take "assistant" or "last_assistant", or leave it out'
                )
        if self.evaluate.harness_tasks and self.num_processes > 1:
            raise ValueError(
                f"evaluate.harness_tasks runs in one process, got {self.num_processes} (cluster.nodes x "
                "cluster.processes_per_node)"
            )
        return self

    @property
    def evaluation_dataset(self) -> DatasetSpec | None:
        """What `[evaluation]` has of its own, prepared as `[dataset]` is, in order and unpacked. None: it has none."""
        if self.evaluation is None or not self.evaluation.mix or self.job != "train":
            return None
        return self.dataset.model_copy(update={"mix": self.evaluation.mix, "packing": False, "shuffle": False})

    @property
    def num_processes(self) -> int:
        """Training processes over all nodes."""
        return self.cluster.nodes * self.cluster.processes_per_node

    @property
    def accumulation_steps(self) -> int:
        """Forward passes of each process per optimizer step."""
        return self.training.batch_size // (self.training.micro_batch_size * self.num_processes)


class ResolvedExperiment(Spec):
    """An experiment whose plugin options were parsed by their owners: nothing is left to guess."""

    spec: ExperimentSpec
    """With every default filled in, plugin options included."""

    project_root: str
    """Absolute. Relative paths of the experiment start here: the repository's root, or the working directory."""

    home: str
    """Absolute: `$TUNEWRIGHT_HOME`, where runs and caches live."""

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved file. It does not depend on where the project lies."""
        return digest_of(self.spec.to_document())
