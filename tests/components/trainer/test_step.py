"""One optimizer step: its loss and gradients are those of a plain computation, whatever the split."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from components.trainer.tiny_sessions import session_of
from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.batches import make_batch
from tunewright.trainer.computing import precision
from tunewright.trainer.session import Session
from tunewright.trainer.step import run_step
from tunewright.trainer.strategies.engine import Applied


def reference_of(session: Session) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, one conversation at a time, with full logits and plain labels."""
    model = session.trained.model
    total, losses = 0, []
    for row in session.order.rows_of(0):
        for sequence in session.dataset.sequences_of(row):
            ids = torch.from_numpy(sequence.ids.astype("int64"))
            labels = torch.full_like(ids, -100)
            for start, end in sequence.spans.reshape(-1, 2).tolist():
                labels[start:end] = ids[start:end]
            logits = model(input_ids=ids[None]).logits[0]
            losses.append(cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum"))
            total += int((labels[1:] != -100).sum())
    loss = torch.stack(losses).sum() / total
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return float(loss.detach()), gradients


def caught_gradients(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The gradients a step clips, kept before the update."""
    kept: dict[str, torch.Tensor] = {}
    apply = session.engine.apply

    def keep(*arguments: Any) -> Applied:
        kept.update({n: p.grad.clone() for n, p in session.trained.model.named_parameters() if p.grad is not None})
        return apply(*arguments)

    monkeypatch.setattr(session.engine, "apply", keep)
    return kept


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize(("batch_size", "micro_batch_size"), [(6, 1), (6, 2), (6, 3), (6, 6)])
def test_loss_and_gradients_are_those_of_one_conversation_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: bool, batch_size: int, micro_batch_size: int
) -> None:
    with session_of(tmp_path, packing=packing, batch_size=batch_size, micro_batch_size=micro_batch_size) as session:
        assert session.sequences_apart
        loss, gradients = reference_of(session)
        kept = caught_gradients(session, monkeypatch)
        result = run_step(session)
    assert result.loss == pytest.approx(loss, rel=1e-6)
    assert kept.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(kept[name], gradient, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("lacking", ["sequences_apart", "keeps_positions"])
def test_models_that_cannot_pack_or_cannot_pick_logits_have_the_same_loss(tmp_path: Path, lacking: str) -> None:
    with session_of(tmp_path, packing=True) as session:
        loss, _ = reference_of(session)
        setattr(session if lacking == "sequences_apart" else session.model, lacking, False)
        assert run_step(session).loss == pytest.approx(loss, rel=1e-6)


def test_activation_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    losses = []
    for index, on in enumerate((False, True)):
        with session_of(tmp_path / str(index), activation_checkpointing=on) as session:
            losses.append([run_step(session).loss for _ in range(3)])
    assert losses[0] == losses[1]


def test_bfloat16_computes_near_float32_and_keeps_float32_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: True)
    with session_of(tmp_path, dtype="bfloat16") as session:
        loss, _ = reference_of(session)
        result = run_step(session)
        assert result.loss != loss
        assert result.loss == pytest.approx(loss, rel=2e-2)
        assert {one.dtype for one in session.parameters} == {torch.float32}


def test_a_batch_without_trained_tokens_has_no_loss_and_no_gradient(tmp_path: Path) -> None:
    with session_of(tmp_path) as session:
        (sequence,) = session.dataset.sequences_of(0)
        batch = make_batch([replace(sequence, spans=sequence.spans[:0])])
        loss = session.model.summed_cross_entropy(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        assert loss.item() == 0
        assert all(one.grad is None or not one.grad.any() for one in session.parameters)


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_told(tmp_path: Path) -> None:
    norms = {}
    for limit in (0.0, 0.5):
        with session_of(tmp_path / str(limit), max_grad_norm=limit) as session:
            told: list[float] = []

            def note(_optimizer: Any, *_: Any, told: list[float] = told, session: Session = session) -> None:
                gradients = [one.grad for one in session.parameters if one.grad is not None]
                told.append(float(torch.nn.utils.get_total_norm(gradients)))

            session.engine.optimizer.register_step_pre_hook(note)
            norms[limit] = (run_step(session).grad_norm, told[0])
    assert norms[0.0][0] == pytest.approx(norms[0.5][0])
    assert norms[0.0][1] == pytest.approx(norms[0.0][0])
    assert norms[0.5][1] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_anything_is_changed(tmp_path: Path, value: float) -> None:
    with session_of(tmp_path) as session:
        run_step(session)
        session.progress.step = 1
        before = [one.detach().clone() for one in session.parameters]
        head = session.trained.model.get_output_embeddings()
        head.register_forward_hook(lambda _module, _inputs, output: output * value)
        with pytest.raises(TrainingDiverged, match="step 2: the loss is") as caught:
            run_step(session)
        assert caught.value.hint
        assert all(torch.equal(one, other) for one, other in zip(session.parameters, before, strict=True))


def test_a_gradient_that_is_no_number_stops_too(tmp_path: Path) -> None:
    with session_of(tmp_path) as session:
        session.parameters[0].register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]  # torch has no types here
        with pytest.raises(TrainingDiverged, match="step 1: the norm of the gradients is nan"):
            run_step(session)
