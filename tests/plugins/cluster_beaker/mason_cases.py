"""Command lines of open-instruct's launcher, what it sends for them, and what ours sends.

`masons` is mason's task by its source of August 2026, in the form of Beaker's JSON; `ours` what our plan has instead,
field by field: a field that does not stand in `differs` is the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WEKA = [
    {"source": {"weka": "oe-adapt-default"}, "mountPath": "/weka/oe-adapt-default"},
    {"source": {"weka": "oe-training-default"}, "mountPath": "/weka/oe-training-default"},
]
CACHES = {
    "HF_HOME": "/weka/oe-adapt-default/allennlp/.cache/huggingface",
    "HF_DATASETS_CACHE": "/weka/oe-adapt-default/allennlp/.cache/huggingface",
    "HF_HUB_CACHE": "/weka/oe-adapt-default/allennlp/.cache/hub",
}
INFINIBAND = {"NCCL_SOCKET_IFNAME": "ib", "NCCL_IB_HCA": "^=mlx5_bond_0"}
MASONS_DEFAULTS = {
    "RAY_CGRAPH_get_timeout": "300",
    "VLLM_DISABLE_COMPILE_CACHE": "1",
    "NCCL_DEBUG": "ERROR",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
}
"""Variables of vLLM and Ray that every job of mason's gets, also one that uses neither. Ours gets what it asks for."""

BASE: dict[str, Any] = {
    "image": {"beaker": "me/sft"},
    "context": {"priority": "normal"},
    "result": {"path": "/output"},
    "constraints": {"cluster": ["ai2/jupiter"]},
    "datasets": WEKA,
    "resources": {"gpuCount": 8},
    "hostNetworking": True,
    "leaderSelection": False,
    "variables": CACHES,
    "secrets": {},
}
"""What both send for `--cluster ai2/jupiter --gpus 8 --image me/sft`. Variables and secrets as mappings."""

FOUR_NODES = {"replicas": 4, "leaderSelection": True, "propagateFailure": True, "propagatePreemption": True}


@dataclass(frozen=True)
class MasonCase:
    """One command line in both languages."""

    name: str
    mason: str
    """What a user types after `python mason.py`."""

    fault: str
    """Which of mason's faults is not there any more."""

    options: dict[str, Any] = field(default_factory=dict)
    """`[cluster.options]`, beside the common ones."""

    job: dict[str, Any] = field(default_factory=dict)
    """Nodes, retries, variables and secrets of the job."""

    command: tuple[str, ...] = ("python", "train.py", "--seed", "1")
    """What shall run."""

    masons_shell_text: str = "python train.py --seed 1"
    """What mason gives to `/bin/bash -c`."""

    masons: dict[str, Any] = field(default_factory=dict)
    """Mason's task where it is not `BASE`."""

    ours: dict[str, Any] = field(default_factory=dict)
    """Ours where it is not `BASE`."""

    differs: tuple[str, ...] = ()
    """Fields that are not the same, because of the fault."""

    experiment: dict[str, Any] = field(default_factory=dict)
    """Fields of the experiment, above its task: the same in both."""

    refusal: str = ""
    """Where ours refuses: what it says."""


CASES = (
    MasonCase(
        name="single node",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --workspace ai2/tulu --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.13: the command passes through /bin/bash; b2.15: no name, so that sending it twice runs it twice",
        options={"workspace": "ai2/tulu"},
    ),
    MasonCase(
        name="several nodes with leader selection",
        mason="--cluster ai2/jupiter --num_nodes 4 --gpus 8 --image me/sft --pure_docker_mode -- "
        "accelerate launch --num_processes 8 train.py",
        fault="b2.11: only `accelerate` with `--num_processes N` is rewritten, by an expression; its port is fixed",
        job={"nodes": 4},
        command=("accelerate", "launch", "--num_processes", "8", "train.py"),
        masons_shell_text="accelerate launch --num_processes 32 --num_machines 4 --machine_rank $BEAKER_REPLICA_RANK "
        "--main_process_ip $BEAKER_LEADER_REPLICA_HOSTNAME --main_process_port 29400 train.py",
        masons={**FOUR_NODES, "variables": {**CACHES, **INFINIBAND}},
        ours={**FOUR_NODES, "variables": {**CACHES, **INFINIBAND}},
    ),
    MasonCase(
        name="clusters with and without Weka",
        mason="--cluster ai2/jupiter ai2/augusta --gpus 8 --image me/sft --pure_docker_mode -- "
        "python open_instruct/finetune.py --output_dir out",
        fault="b2.4: nothing is mounted, but --output_dir becomes /weka/...: the results are lost with the container",
        options={"clusters": ["ai2/jupiter", "ai2/augusta"]},
        refusal="ai2/augusta shares no storage that is known of",
    ),
    MasonCase(
        name="budget",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --budget ai2/oe-adapt --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.15: no spec is kept; ours is in the run's plan/",
        options={"budget": "ai2/oe-adapt"},
        experiment={"budget": "ai2/oe-adapt"},
    ),
    MasonCase(
        name="preemptible",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --preemptible --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.17: only GRPO goes on after a preemption; ours goes on from its last checkpoint",
        options={"preemptible": True},
        masons={"context": {"priority": "normal", "preemptible": True}},
        ours={"context": {"priority": "normal", "preemptible": True}},
    ),
    MasonCase(
        name="preemptible after half an hour",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --min_runtime 30m --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="mason never says autoResume: what was preempted stays so",
        options={"min_runtime_seconds": 1800},
        masons={"context": {"priority": "normal", "minRuntime": 1800 * 10**9}},
        ours={"context": {"priority": "normal", "minRuntime": 1800 * 10**9, "autoResume": True}},
        differs=("context",),
    ),
    MasonCase(
        name="secrets",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --secret WANDB_API_KEY=team_wandb --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.3: eight more secrets go to every job, asked for or not, and those that are missing are silent",
        job={"secrets": {"WANDB_API_KEY": "team_wandb", "HF_TOKEN": "HF_TOKEN"}},
        masons={
            "secrets": {
                "WANDB_API_KEY": "team_wandb",
                "HF_TOKEN": "me_HF_TOKEN",
                "OPENAI_API_KEY": "OPENAI_API_KEY",
                "BEAKER_TOKEN": "me_BEAKER_TOKEN",
            }
        },
        ours={
            "secrets": {
                "WANDB_API_KEY": "<user>_team_wandb | team_wandb",
                "HF_TOKEN": "<user>_HF_TOKEN | HF_TOKEN",
            }
        },
        differs=("secrets",),
    ),
    MasonCase(
        name="datasets",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --beaker_datasets /models:01HQXGAYGCS6D4ZK51K83CM49Y "
        "/corpus:me/corpus --pure_docker_mode -- python train.py --seed 1",
        fault="b1: cut at colons into exactly two; ours knows parts of datasets, read-only paths, volumes",
        options={"mounts": ["dataset:01HQXGAYGCS6D4ZK51K83CM49Y:/models", "dataset:me/corpus:/corpus"]},
        masons={
            "datasets": [
                *WEKA,
                {"source": {"beaker": "01HQXGAYGCS6D4ZK51K83CM49Y"}, "mountPath": "/models"},
                {"source": {"beaker": "me/corpus"}, "mountPath": "/corpus"},
            ]
        },
        ours={
            "datasets": [
                *WEKA,
                {"source": {"beaker": "01HQXGAYGCS6D4ZK51K83CM49Y"}, "mountPath": "/models"},
                {"source": {"beaker": "me/corpus"}, "mountPath": "/corpus"},
            ]
        },
    ),
    MasonCase(
        name="priority",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --priority urgent --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b1: a wrong priority is a KeyError; ours lists what is allowed",
        options={"priority": "urgent"},
        masons={"context": {"priority": "urgent"}},
        ours={"context": {"priority": "urgent"}},
    ),
    MasonCase(
        name="time limit",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --timeout 2h30m --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.15: nobody tells how it ended; ours says TIMED_OUT with the cause",
        options={"time_limit_seconds": 9000},
        masons={"timeout": 9000 * 10**9},
        ours={"timeout": 9000 * 10**9},
    ),
    MasonCase(
        name="image",
        mason="--cluster ai2/jupiter --gpus 8 --image ai2/other --pure_docker_mode -- python train.py --seed 1",
        fault="b1: without --image an obsolete base is taken; ours refuses a job without an image",
        options={"image": "ai2/other"},
        masons={"image": {"beaker": "ai2/other"}},
        ours={"image": {"beaker": "ai2/other"}},
    ),
    MasonCase(
        name="hostnames",
        mason="--cluster ai2/jupiter --hostname jupiter-cs-aus-101.reviz.ai2.in --gpus 8 --image me/sft "
        "--pure_docker_mode -- python train.py --seed 1",
        fault="b1: --cluster is still needed, and silently not used; ours finds the storage by the host's name",
        options={"clusters": [], "hostnames": ["jupiter-cs-aus-101.reviz.ai2.in"]},
        masons={"constraints": {"hostname": ["jupiter-cs-aus-101.reviz.ai2.in"]}},
        ours={"constraints": {"hostname": ["jupiter-cs-aus-101.reviz.ai2.in"]}},
    ),
    MasonCase(
        name="retries",
        mason="--cluster ai2/jupiter --gpus 8 --image me/sft --max_retries 3 --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.6: a retry does not know that it is one; ours is told TUNEWRIGHT_ATTEMPT and goes on",
        job={"max_retries": 3},
        experiment={"retry": {"allowedTaskRetries": 3}},
    ),
    MasonCase(
        name="quotes in arguments and variables",
        mason='--cluster ai2/jupiter --gpus 8 --image me/sft --env NOTE="it\'s so; echo $HOME" --pure_docker_mode -- '
        "python train.py --note \"it's; echo hi\" --foo 'a b' --stop '</answer>' --template '{x}'",
        fault="b2.12: arguments are joined with spaces: `a b` becomes two, `; echo hi` is run by the shell",
        job={"variables": {"NOTE": "it's so; echo $HOME"}},
        command=(
            "python",
            "train.py",
            "--note",
            "it's; echo hi",
            "--foo",
            "a b",
            "--stop",
            "</answer>",
            "--template",
            "{x}",
        ),
        masons_shell_text="python train.py --note it's; echo hi --foo a b --stop '</answer>' --template '{x}'",
        masons={"variables": {**CACHES, "NOTE": "it's so; echo $HOME"}},
        ours={"variables": {**CACHES, "NOTE": "it's so; echo $HOME"}},
    ),
    MasonCase(
        name="several nodes without a network for it",
        mason="--cluster ai2/saturn --num_nodes 2 --gpus 8 --image me/sft --pure_docker_mode -- "
        "python train.py --seed 1",
        fault="b2.14: asks on the terminal, and takes any answer but `n` for yes; in CI it waits for ever",
        options={"clusters": ["ai2/saturn"]},
        job={"nodes": 2},
        refusal="ai2/saturn has no network for it",
    ),
)
