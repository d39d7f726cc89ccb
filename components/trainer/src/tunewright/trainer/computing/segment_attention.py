"""Attention inside each conversation of a row: one causal SDPA for each, instead of a T x T mask over all of them.

Transformers asks for a mask once per forward pass and hands what it gets to every layer unread. `segment_mask` gives
the lengths of the conversations where the mask asked for is exactly that of causal attention inside each, and
transformers' own mask in every other case (padding, caches, sliding windows that cut, bidirectional blocks).

Shapes: T tokens of the row, S conversations, H heads, K heads of keys and values, D entries of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

from tunewright.trainer.computing.precision import computes_faster_in_float32

NAME = "tunewright_segments"
"""What the attention is called in transformers' registries, and in the log."""

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Whether a query sees a key, by indices of batch, head, query and key."""


def use_segments(transformer: Any) -> bool:
    """Let a transformers model that attends by `sdpa` attend conversation by conversation. Says whether it does."""
    from transformers import AttentionInterface, AttentionMaskInterface

    if transformer.config._attn_implementation != "sdpa" or not transformer._can_set_attn_implementation():
        return False
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, segment_mask)
    transformer.set_attn_implementation(NAME)
    return bool(transformer.config._attn_implementation == NAME)


def keep_out_of_compiled_code() -> None:
    """Let torch's compiler call the attention as it is: each number of conversations would be compiled anew."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, torch.compiler.disable(segment_attention))  # type: ignore[no-untyped-call]


def segment_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: MaskFunction,
    attention_mask: torch.Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **arguments: Any,
) -> torch.Tensor | None:
    """The lengths (1, 1, 1, S) of the row's conversations, int64 on the CPU; or what transformers gives for `sdpa`."""
    from transformers.masking_utils import sdpa_mask

    is_row = batch_size == 1 and q_length == kv_length > 1 and attention_mask is None and not use_vmap
    lengths = causal_lengths(mask_function, q_length, torch.device(device)) if is_row else []
    if len(lengths) > 1:
        return torch.tensor(lengths)[None, None, None]
    mask: torch.Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        mask_function=mask_function,
        attention_mask=attention_mask,
        use_vmap=use_vmap,
        device=device,
        **arguments,
    )
    return mask


def causal_lengths(mask_function: MaskFunction, num_tokens: int, device: torch.device) -> list[int]:
    """Lengths of the blocks in which the mask is causal, no block seeing another; empty where it is not of that form.

    Looks at T entries along the edges of the blocks, not at all T x T: just below and above the diagonal, at the
    first token of the own block, and at the token before it.
    """
    position, zero = torch.arange(num_tokens, device=device), torch.zeros((), dtype=torch.int64, device=device)

    def sees(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return mask_function(zero, zero, query, key).expand(query.shape)

    begins = torch.cat([torch.ones(1, dtype=torch.bool, device=device), ~sees(position[1:], position[:-1])])
    first = torch.where(begins, position, 0).cummax(0).values
    sees_first = sees(position, first)
    sees_later = torch.cat([sees(position[:-1], position[1:]), begins.new_zeros(1)])
    sees_other = sees(position, (first - 1).clamp_min(0)) & (first > 0)
    is_causal = sees_first & ~sees_later & ~sees_other
    # One transfer from the device for both answers.
    starts, fits = torch.stack([begins, is_causal]).cpu()
    if not bool(fits.all()):
        return []
    edges = [*starts.nonzero().flatten().tolist(), num_tokens]
    return [end - start for start, end in zip(edges, edges[1:], strict=False)]


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """What an attention layer (query (1, H, T, D), key and value (1, K, T, D)) gives: (1, T, H, D), and no weights.

    A mask that `segment_mask` did not make of lengths is transformers' own affair.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None and attention_mask.dtype is torch.int64 and "position_bias" in arguments:
        attention_mask = whole_mask(attention_mask.flatten().to(query.device))
    if attention_mask is None or attention_mask.dtype is not torch.int64:
        output: torch.Tensor
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **arguments
        )
        return output, None
    lengths, dtype = attention_mask.flatten().tolist(), query.dtype
    if dtype is not torch.float32 and computes_faster_in_float32(query.device):
        query, key, value = query.float(), key.float(), value.float()
    # Split and not sliced: the gradient of a slice is a tensor as long as the whole row.
    queries, keys, values = (torch.split(one, lengths, dim=2) for one in (query, key, value))
    is_grouped = query.shape[1] != key.shape[1]
    outputs = [
        attend(one_q, one_k, one_v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=is_grouped)
        for one_q, one_k, one_v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat([output.transpose(1, 2) for output in outputs], dim=1).to(dtype), None


def whole_mask(lengths_S: torch.Tensor) -> torch.Tensor:
    """The mask (1, 1, T, T), true where a query sees a key: for models that add to their scores as they attend."""
    number_T = torch.arange(len(lengths_S), device=lengths_S.device).repeat_interleave(lengths_S)
    position_T = torch.arange(len(number_T), device=lengths_S.device)
    return ((number_T[:, None] == number_T) & (position_T[:, None] >= position_T))[None, None]
