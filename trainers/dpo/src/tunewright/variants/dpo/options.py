"""What `[training.options]` may hold for variant `dpo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.spec import Spec

_SIMPO_GAMMA = 0.5


class DpoOptions(Spec):
    """Direct preference optimization: which loss, how strong, and whether adapters or all weights are trained."""

    loss: Literal["sigmoid", "norm", "simpo", "ipo"] = "sigmoid"
    """`sigmoid`: DPO's own. `norm`: by mean log-probabilities a token. `simpo`: without reference. `ipo`: squared."""

    beta: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """How strongly a preference counts against leaving the reference. Larger stays closer to it."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """`sigmoid` only: the share of pairs that may be the wrong way round (conservative DPO)."""

    gamma: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """`simpo` only: the margin that a chosen answer must have. None: 0.5."""

    lora: AdapterOptions | None = None
    """Options of LoRA adapters, which are trained instead of the model. None: every weight is trained."""

    @model_validator(mode="after")
    def _options_go_with_the_loss(self) -> DpoOptions:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f'`label_smoothing` goes with `loss = "sigmoid"`, not with "{self.loss}"')
        if self.gamma is not None and self.loss != "simpo":
            raise ValueError(f'`gamma` goes with `loss = "simpo"`, not with "{self.loss}"')
        return self

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with the model as it starts."""
        return self.loss != "simpo"

    @property
    def is_by_token(self) -> bool:
        """Whether answers are compared by their mean log-probability a token, so that length counts nothing."""
        return self.loss != "sigmoid"

    @property
    def wanted_margin(self) -> float:
        """What `simpo` subtracts from the distance of chosen and rejected."""
        return _SIMPO_GAMMA if self.gamma is None else self.gamma
