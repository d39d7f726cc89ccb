"""The model's output layer, asked for losses instead of logits: what makes a large vocabulary affordable.

Its weight is used inside its own forward, so that whatever gathers weights around that (ZeRO-3, FSDP2) or casts them
works as ever; between two passes the layer is what it was. A model that changes its logits afterwards (a cap, a scale)
would change the losses instead: whether it does is tried before the first step, and such a model computes whole logits.

Shapes: T tokens of a pass, N of them predicted and trained, H entries of a hidden state, V of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunewright.trainer.computing.chunked_loss import OutputLayer, summed_cross_entropy, token_log_probabilities

_TRIED_TOKENS = 8
_TRIED_LOGIT = 50.0
"""Size that logits are brought to in the trial: a cap or another bend does not show in those of a new model."""

_RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class LossHead:
    """A model's output layer."""

    layer: torch.nn.Linear

    @contextmanager
    def summing(
        self, labels_N: torch.Tensor, smoothing: float = 0.0, positions_N: torch.Tensor | None = None
    ) -> Iterator[None]:
        """Within it, the layer gives the sum (1, 1, 1) of the cross-entropies of `labels_N`.

        `positions_N`: where they are predicted, if the layer gets hidden states of all tokens and not of these.
        """

        def loss(hidden_NH: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
            return summed_cross_entropy(hidden_NH, layer, labels_N, smoothing)

        with self._answering(loss, positions_N):
            yield

    @contextmanager
    def scoring(self, labels_N: torch.Tensor, positions_N: torch.Tensor | None = None) -> Iterator[None]:
        """Within it, the layer gives the log-probabilities (1, N, 1) of `labels_N`."""

        def scores(hidden_NH: torch.Tensor, layer: OutputLayer) -> torch.Tensor:
            return token_log_probabilities(hidden_NH, layer, labels_N)

        with self._answering(scores, positions_N):
            yield

    @contextmanager
    def _answering(
        self, answer: Callable[[torch.Tensor, OutputLayer], torch.Tensor], positions_N: torch.Tensor | None
    ) -> Iterator[None]:
        def forward(hidden: torch.Tensor) -> torch.Tensor:
            hidden_NH = hidden.flatten(0, -2)
            kept_NH = hidden_NH if positions_N is None else hidden_NH[positions_N]
            dtype = _matrix_dtype(self.layer.weight)
            return answer(kept_NH, OutputLayer(self.layer.weight, self.layer.bias, dtype)).reshape(1, -1, 1)

        # On the instance, beside whatever the class has: parameters, their names and hooks stay as they are.
        attributes = vars(self.layer)
        before = attributes.get("forward")
        attributes["forward"] = forward
        try:
            yield
        finally:
            del attributes["forward"]
            if before is not None:
                attributes["forward"] = before


def _matrix_dtype(weight: torch.Tensor) -> torch.dtype:
    """What a linear layer of this weight would be computed in here."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def find_loss_head(
    model: torch.nn.Module, transformer: Any, device: torch.device, dtype: torch.dtype
) -> tuple[LossHead | None, str]:
    """The output layer of `transformer` (in `model`, which may wrap it), or None and why it has to give logits.

    The model must not be wrapped for a strategy yet. Leaves it in training mode, and draws no random number.
    """
    layer = transformer.get_output_embeddings()
    if type(layer) is not torch.nn.Linear:
        return None, f"its output layer is {_article(type(layer).__name__)}"
    head = LossHead(layer)
    model.eval()
    try:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            agrees = _agrees(model, head, transformer.config.get_text_config().vocab_size, device, dtype)
    finally:
        model.train()
    return (head, "") if agrees else (None, "it changes its logits after the output layer")


def _article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _agrees(
    model: torch.nn.Module, head: LossHead, vocabulary_size: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether the loss and its gradient are the same both ways, on logits large enough to show a cap."""
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(0, vocabulary_size, (2, _TRIED_TOKENS), generator=generator).to(device)
    positions = torch.arange(_TRIED_TOKENS, device=device)
    with torch.no_grad():
        largest = _call(model, ids, positions).abs().max()
    factor = float(_TRIED_LOGIT / largest) if largest > 0 else 1.0
    plain = _trial(head, factor, lambda: cross_entropy(_call(model, ids, positions).float(), labels, reduction="sum"))
    with head.summing(labels):
        fused = _trial(head, factor, lambda: _call(model, ids, positions).sum())
    return all(_close(one, other, _RELATIVE_TOLERANCE[dtype]) for one, other in zip(fused, plain, strict=True))


def _call(model: torch.nn.Module, ids_T: torch.Tensor, positions_T: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False).logits
    return logits[0]


def _trial(head: LossHead, factor: float, loss_of: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient by the hidden states (T, H), which are `factor` times those of the model."""
    seen: list[torch.Tensor] = []

    def enlarge(_layer: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        seen.append((arguments[0].detach() * factor).requires_grad_())
        return (seen[0],)

    with torch.enable_grad():
        handle = head.layer.register_forward_pre_hook(enlarge)
        try:
            loss = loss_of()
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(loss, seen)
    return loss.detach().float(), gradient.float()


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether no entry differs by more than `tolerance` of the largest."""
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())
