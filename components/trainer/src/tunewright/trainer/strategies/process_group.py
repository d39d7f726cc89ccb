"""Meeting the other processes."""

from __future__ import annotations

import os
from typing import Any

import torch


def join_process_group(on_gpu: bool, even_alone: bool = False) -> None:
    """Meet the other processes, where there are any. With `even_alone` a single process makes a group of its own.

    The keys of each attempt have a prefix of their own: torch's agent keeps its store over restarts, and a restarted
    process would read the address of a dead one (torch 2.13, gloo).
    """
    from torch import distributed

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if distributed.is_initialized() or (world == 1 and not even_alone):
        return
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_own_store() if world == 1 else _shared_store(world),
        rank=int(os.environ.get("RANK", "0")),
        world_size=world,
    )


def _own_store() -> Any:
    from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch does not mark it as its own

    return HashStore()


def _shared_store(world: int) -> Any:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    is_host = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=is_host)
    return PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def leave_process_group() -> None:
    """Leave it, where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
