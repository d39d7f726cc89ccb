"""Meeting the other processes."""

from __future__ import annotations

import os

import torch


def join_process_group(on_gpu: bool) -> None:
    """Meet the other processes, where there are any.

    The keys of each attempt have a prefix of their own: torch's agent keeps its store over restarts, and a restarted
    process would read the address of a dead one (torch 2.13, gloo).
    """
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch does not mark them as its own

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or distributed.is_initialized():
        return
    rank = int(os.environ["RANK"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=is_host)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore(f"attempt_{attempt}", store),
        rank=rank,
        world_size=world,
    )


def leave_process_group() -> None:
    """Leave it, where there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
