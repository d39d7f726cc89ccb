"""Imports what trainers import, for processes that are forked off the one which imports this."""

# ruff: noqa: F401, E402

import accelerate
import torch.distributed.fsdp
import torch.distributed.launcher.api
import transformers.models.auto.modeling_auto
import transformers.models.auto.tokenization_auto
import transformers.models.llama.modeling_llama

import tunewright.trainer.exporting
import tunewright.trainer.scoring.running
import tunewright.trainer.training
from tunewright.trainer.lean_imports import import_bitsandbytes

import_bitsandbytes()

import peft
import transformers.optimization
