"""What the loss over a vocabulary of 128k tokens takes in memory and time, beside plain logits.

    PYTHON -m benchmarks.trainer.vocabulary [--dtype bfloat16]

1,024 tokens of which 60 % are trained, hidden states of 512. Memory is the peak of all tensors that one forward and
backward pass make, as torch's allocator reports them: exact, without what the process holds anyway. The gradient of the
output layer's weight is there either way and given by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, linear
from torch.profiler import ProfilerActivity, profile

from tunewright.trainer.computing.chunked_loss import OutputLayer, summed_cross_entropy

TOKENS, TRAINED, HIDDEN, VOCABULARY = 1024, 614, 512, 131_072


def peak_bytes(compute: Callable[[], torch.Tensor]) -> int:
    """The most that tensors made by `compute` and its backward pass had at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute().backward()  # type: ignore[no-untyped-call]
    current = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            most = max(most, current)
    return most


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    dtype = getattr(torch, parser.parse_args().dtype)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN) * 0.05).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (TOKENS,))
    labels[TRAINED:] = -100

    def all_logits() -> torch.Tensor:
        return cross_entropy(linear(hidden, weight).float(), labels, reduction="sum")

    def trained_logits() -> torch.Tensor:
        return cross_entropy(linear(hidden[:TRAINED], weight).float(), labels[:TRAINED], reduction="sum")

    def ours() -> torch.Tensor:
        return summed_cross_entropy(hidden[:TRAINED], OutputLayer(weight, None, dtype), labels[:TRAINED])

    gradient = weight.numel() * 4
    print(f"the gradient of the weight: {gradient / 2**20:,.0f} MiB, in each way")
    ways = {"plain logits": all_logits, "plain logits of trained tokens": trained_logits, "ours": ours}
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32, cache_enabled=False):
        for name, way in ways.items():
            weight.grad = hidden.grad = None
            began = time.process_time()
            loss = way()
            loss.backward()  # type: ignore[no-untyped-call]
            seconds = time.process_time() - began
            weight.grad = hidden.grad = None
            extra = peak_bytes(way) - gradient
            print(f"{name}: {extra / 2**20:,.0f} MiB more, {seconds:.2f} CPU s, loss {float(loss.detach()):.4f}")


if __name__ == "__main__":
    main()
