"""The output layer and the cross-entropy as one: logits exist for a few tokens at a time, never for all.

The gradient of a summed cross-entropy is computed together with it, while a chunk's logits are there; that of single
log-probabilities, whose weights are not known yet, by computing the logits once more. Softmax and sums are float32,
matrices are multiplied in `dtype`, the gradient of the weight is added up in float32.

On a CPU in float32 the logits of all chunks use one place in memory. Logits laid out as (V, C) were tried: each product
was faster by itself, all of it together was not (on a busy machine).

Measured beside this: torch's own `linear_cross_entropy` was slower and took more memory; Liger's needs a GPU.

Shapes: N tokens, H entries of a hidden state, V of the vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_LOGITS_OF_A_CHUNK_ON_CPU = 2**24
_LOGITS_OF_A_CHUNK_ON_GPU = 2**26
"""64 and 256 MiB in float32. Fewer mean more passes over the weight's gradient."""

_WEIGHTS_OF_A_BLOCK = 2**22
"""Entries of the weight's gradient that are rounded to `dtype` before they are added up."""


@dataclass(frozen=True)
class OutputLayer:
    """What makes logits of hidden states."""

    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None

    dtype: torch.dtype
    """What matrices are multiplied in."""

    def logits(self, hidden_CH: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """(C, V), float32, which may be written to; in `place` where that is large enough."""
        hidden_CH, weight_VH = hidden_CH.to(self.dtype), self.weight_VH.to(self.dtype)
        size = len(hidden_CH) * len(weight_VH)
        if size <= len(place):
            logits_CV = torch.mm(hidden_CH, weight_VH.T, out=place[:size].view(-1, len(weight_VH)))
        else:
            logits_CV = (hidden_CH @ weight_VH.T).float()
        return logits_CV if self.bias_V is None else logits_CV.add_(self.bias_V.float())

    def logits_by_chunk(self, hidden_NH: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Which tokens, and their logits (C, V), float32: to be written to, and gone with the next chunk."""
        layer, device = self.in_dtype(), hidden_NH.device
        chunks = list(chunks_of(len(hidden_NH), len(self.weight_VH), device.type))
        keeps_place = self.dtype is torch.float32 and device.type == "cpu"
        longest = max((rows.stop - rows.start for rows in chunks), default=0) if keeps_place else 0
        place = torch.empty(longest * len(self.weight_VH), dtype=torch.float32, device=device)
        for rows in chunks:
            yield rows, layer.logits(hidden_NH[rows], place)

    def in_dtype(self) -> OutputLayer:
        """The same with its weight in `dtype`, so that chunks do not convert it again and again."""
        return OutputLayer(self.weight_VH.to(self.dtype), self.bias_V, self.dtype)


def summed_cross_entropy(
    hidden_NH: torch.Tensor, layer: OutputLayer, labels_N: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """The sum over N of the cross-entropies, a scalar, float32. `smoothing` of each target goes to all V alike."""
    _refuse_other_number(hidden_NH, labels_N)
    total: torch.Tensor = _SummedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_NH, layer.weight_VH, layer.bias_V, labels_N, smoothing, layer.dtype, torch.is_grad_enabled()
    )
    return total


def token_log_probabilities(hidden_NH: torch.Tensor, layer: OutputLayer, labels_N: torch.Tensor) -> torch.Tensor:
    """The log-probability (N,) of each label, float32."""
    _refuse_other_number(hidden_NH, labels_N)
    result: torch.Tensor = _TokenLogProbabilities.apply(  # type: ignore[no-untyped-call]
        hidden_NH, layer.weight_VH, layer.bias_V, labels_N, layer.dtype
    )
    return result


def _refuse_other_number(hidden_NH: torch.Tensor, labels_N: torch.Tensor) -> None:
    if len(hidden_NH) != len(labels_N):
        raise RuntimeError(f"the output layer got {len(hidden_NH)} hidden states for {len(labels_N)} labels")


class _Gradients:
    """Those of hidden states, weight and bias, as far as they are wanted; filled chunk by chunk."""

    def __init__(self, hidden_NH: torch.Tensor, layer: OutputLayer, wanted: Sequence[bool]) -> None:
        self.layer = layer.in_dtype()
        originals = (hidden_NH, layer.weight_VH, layer.bias_V)
        self._dtypes = [None if one is None else one.dtype for one in originals]
        self._sums = [
            torch.zeros_like(one, dtype=torch.float32) if one is not None and is_wanted else None
            for one, is_wanted in zip(originals, wanted, strict=True)
        ]
        self.any_wanted = any(wanted)

    def add(self, rows: slice, hidden_CH: torch.Tensor, by_logits_CV: torch.Tensor) -> None:
        """Take in a chunk, given the gradient by its logits (float32)."""
        by_hidden_NH, by_weight_VH, by_bias_V = self._sums
        by_logits = by_logits_CV.to(self.layer.dtype)
        if by_hidden_NH is not None:
            by_hidden_NH[rows] = (by_logits @ self.layer.weight_VH).float()
        if by_weight_VH is not None:
            _add_product(by_weight_VH, by_logits, hidden_CH.to(self.layer.dtype))
        if by_bias_V is not None:
            by_bias_V += by_logits_CV.sum(0)

    def taken(self, factor: torch.Tensor | None = None) -> list[torch.Tensor | None]:
        """All three times `factor`, each in the type of what it is a gradient of. Not to be asked for twice."""
        results: list[torch.Tensor | None] = []
        for dtype in self._dtypes:
            # Nobody else may hold it: then torch makes it the parameter's gradient instead of copying it.
            gradient = self._sums.pop(0)
            if gradient is not None and factor is not None:
                gradient.mul_(factor)
            results.append(None if gradient is None else gradient.to(dtype))
        return results


def _add_product(total_VH: torch.Tensor, by_logits_CV: torch.Tensor, hidden_CH: torch.Tensor) -> None:
    """Add by_logits^T @ hidden. In another type than float32 block by block: the product is rounded and converted."""
    if hidden_CH.dtype is torch.float32:
        total_VH.addmm_(by_logits_CV.T, hidden_CH)
        return
    rows = max(1, _WEIGHTS_OF_A_BLOCK // hidden_CH.shape[1])
    for start in range(0, total_VH.shape[0], rows):
        total_VH[start : start + rows] += by_logits_CV[:, start : start + rows].T @ hidden_CH


def chunks_of(num_tokens: int, vocabulary_size: int, device_type: str) -> Iterator[slice]:
    """Which tokens have their logits at the same time: chunks of about one size."""
    logits = _LOGITS_OF_A_CHUNK_ON_CPU if device_type == "cpu" else _LOGITS_OF_A_CHUNK_ON_GPU
    most = max(16, logits // vocabulary_size)
    num_chunks = -(-num_tokens // most)
    edges = [num_tokens * index // num_chunks for index in range(num_chunks + 1)] if num_chunks else [0]
    return (slice(start, end) for start, end in zip(edges, edges[1:], strict=False))


def _softmax_in_place(logits_CV: torch.Tensor) -> torch.Tensor:
    """Make probabilities of the logits. Gives the logarithms (C, 1) of the sums of their exponentials."""
    largest = logits_CV.amax(dim=1, keepdim=True)
    total = logits_CV.sub_(largest).exp_().sum(dim=1, keepdim=True)
    logits_CV.div_(total)
    return largest + total.log()


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        with_gradients: bool,
    ) -> torch.Tensor:
        with torch.autocast(hidden_NH.device.type, enabled=False):
            wanted = [with_gradients and one for one in ctx.needs_input_grad[:3]]
            gradients = _Gradients(hidden_NH, OutputLayer(weight_VH, bias_V, dtype), wanted)
            losses_N = torch.empty(labels_N.shape, dtype=torch.float32, device=hidden_NH.device)
            for rows, logits_CV in gradients.layer.logits_by_chunk(hidden_NH):
                losses_N[rows] = _one_chunk(logits_CV, labels_N[rows, None], smoothing, gradients.any_wanted)
                if gradients.any_wanted:
                    gradients.add(rows, hidden_NH[rows], logits_CV)
        ctx.gradients = gradients
        return losses_N.sum()

    @staticmethod
    def backward(ctx: Any, factor: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of a fused loss are kept for one backward pass")
        return (*gradients.taken(factor), None, None, None, None)


def _one_chunk(
    logits_CV: torch.Tensor, labels_C1: torch.Tensor, smoothing: float, with_gradients: bool
) -> torch.Tensor:
    """The losses (C,). The logits become the gradient by them, where it is wanted."""
    wanted_C1, mean_C1 = logits_CV.gather(1, labels_C1), logits_CV.mean(dim=1, keepdim=True) if smoothing else 0.0
    losses_C1 = _softmax_in_place(logits_CV) - (1 - smoothing) * wanted_C1 - smoothing * mean_C1
    if with_gradients:
        # What each token was to be is taken off.
        logits_CV.scatter_(1, labels_C1, logits_CV.gather(1, labels_C1) - (1 - smoothing))
        if smoothing:
            logits_CV.sub_(smoothing / logits_CV.shape[1])
    return losses_C1[:, 0]


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N)
        ctx.dtype = dtype
        result_N = torch.empty(labels_N.shape, dtype=torch.float32, device=hidden_NH.device)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for rows, logits_CV in OutputLayer(weight_VH, bias_V, dtype).logits_by_chunk(hidden_NH):
                result_N[rows] = _score_chunk(logits_CV, labels_N[rows, None])
        return result_N

    @staticmethod
    def backward(ctx: Any, factors_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, labels_N = ctx.saved_tensors
        with torch.autocast(hidden_NH.device.type, enabled=False):
            gradients = _Gradients(hidden_NH, OutputLayer(weight_VH, bias_V, ctx.dtype), ctx.needs_input_grad[:3])
            for rows, logits_CV in gradients.layer.logits_by_chunk(hidden_NH):
                _score_chunk_backward(logits_CV, labels_N[rows, None], factors_N[rows, None])
                gradients.add(rows, hidden_NH[rows], logits_CV)
        return (*gradients.taken(), None, None)


def _score_chunk(logits_CV: torch.Tensor, labels_C1: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (C,)."""
    wanted_C1 = logits_CV.gather(1, labels_C1)
    return (wanted_C1 - _softmax_in_place(logits_CV))[:, 0]


def _score_chunk_backward(logits_CV: torch.Tensor, labels_C1: torch.Tensor, factors_C1: torch.Tensor) -> None:
    """The logits become the gradient by them."""
    _softmax_in_place(logits_CV)
    logits_CV.scatter_(1, labels_C1, logits_CV.gather(1, labels_C1) - 1)
    logits_CV.mul_(-factors_C1)
