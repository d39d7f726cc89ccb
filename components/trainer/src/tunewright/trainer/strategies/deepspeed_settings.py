"""DeepSpeed's configuration for an experiment: plain data, nothing left to DeepSpeed's own guesses."""

from __future__ import annotations

from typing import Any

from tunewright.contracts.experiment import ExperimentSpec

_LARGEST_BUCKET = 50_000_000
"""Elements sent at once: 200 MB in float32."""


def deepspeed_settings(
    experiment: ExperimentSpec, stage: int, num_processes: int, num_trained: int, longest_vector: int
) -> dict[str, Any]:
    """The configuration of ZeRO stage 2 or 3 in the words of DeepSpeed's documentation.

    `num_trained` are the elements of all trained parameters, `longest_vector` those of the longest norm or bias.
    """
    training = experiment.training
    return {
        "train_batch_size": num_processes,
        "train_micro_batch_size_per_gpu": 1,
        # The trainer divides its losses itself: DeepSpeed must not do it again.
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own AdamW for the CPU is compiled for minutes when it is first used.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _sharding(training.offload, stage, num_trained, longest_vector),
        **_precision(experiment.model.dtype),
    }


def _precision(dtype: str) -> dict[str, Any]:
    """Gradients are added up and sent in float32, and the optimizer's weights are float32, in every precision."""
    return {
        "bf16": {"enabled": dtype == "bfloat16", "check_grad_overflow": True},
        "fp16": {"enabled": dtype == "float16", "auto_cast": False, "loss_scale": 0},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
    }


def _sharding(offload: str, stage: int, num_trained: int, longest_vector: int) -> dict[str, Any]:
    bucket = max(2, min(num_trained, _LARGEST_BUCKET) // 2 * 2)  # ZeRO-2 wants an even number
    optimizer_device = "none" if offload == "none" else "cpu"
    settings: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "offload_optimizer": {"device": optimizer_device},
    }
    if stage == 3:
        settings |= {
            "offload_param": {"device": "cpu" if offload == "optimizer_and_parameters" else "none"},
            "stage3_prefetch_bucket_size": bucket,
            # Norms and biases stay whole everywhere: fetching them would take longer than computing with them.
            "stage3_param_persistence_threshold": longest_vector,
            # It would replace `torch.nn.functional.linear` in the whole process, for good.
            "memory_efficient_linear": False,
        }
    return settings
