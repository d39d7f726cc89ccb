"""Noise on embeddings, and label smoothing: in training only, and the same after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.trainer.tiny_sessions import session_of
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, model_bytes
from tunewright.trainer.batches import make_batch
from tunewright.trainer.computing.embedding_noise import EmbeddingNoise
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training


def test_noise_is_uniform_and_shrinks_with_the_length_of_the_conversation() -> None:
    layer = torch.nn.Embedding(10, 64)
    noise = EmbeddingNoise(layer, alpha=5.0)
    noise.lengths = (4, 400)
    ids = torch.zeros(1, 404, dtype=torch.int64)
    moved = (layer(ids) - layer.weight[0]).detach()[0]
    for part, length in ((moved[:4], 4), (moved[4:], 400)):
        limit = 5.0 / (length * 64) ** 0.5
        assert part.abs().max() <= limit * (1 + 1e-5)
        assert part.abs().max() > limit * 0.9
        assert part.mean().abs() < limit / 5
    assert torch.equal(layer.eval()(ids)[0, 0], layer.weight[0])


def test_it_changes_the_training_loss_and_not_the_evaluation(tmp_path: Path) -> None:
    with session_of(tmp_path / "with", neftune_noise_alpha=20.0) as session:
        batch = make_batch(session.dataset.sequences_of(0))
        first, second = (float(session.model.summed_cross_entropy(batch).detach()) for _ in range(2))
        session.model.wrapped.eval()
        quiet = session.model.summed_cross_entropy(batch)
    with session_of(tmp_path / "without") as session:
        plain = session.model.summed_cross_entropy(batch)
    assert first != second
    assert torch.equal(quiet, plain)


def test_label_smoothing_is_that_of_torch_in_training_and_none_in_evaluation(tmp_path: Path) -> None:
    with session_of(tmp_path, label_smoothing=0.2) as session:
        batch, model = make_batch(session.dataset.sequences_of(0)), session.model
        assert model.head is not None
        fused, plain = model.summed_cross_entropy(batch), replace(model, head=None).summed_cross_entropy(batch)
        model.wrapped.eval()
        unsmoothed = replace(model, label_smoothing=0.0).summed_cross_entropy(batch)
        assert torch.equal(model.summed_cross_entropy(batch), unsmoothed)
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)
    assert fused.item() != pytest.approx(unsmoothed.item(), rel=1e-4)


@pytest.mark.timeout(180)
def test_a_run_with_noise_that_goes_on_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    """The draws come from the state that the checkpoint has."""
    cache = make_cache(tmp_path / "cache", make_conversations(12))
    model = make_model(tmp_path / "model")
    made = {
        name: make_job(
            tmp_path, model, cache, run=name, max_steps=6, neftune_noise_alpha=5.0, checkpoint={"every_steps": 3}
        )
        for name in ("whole", "halved")
    }
    for job in made.values():
        run_training(open_job(job))
    whole = model_bytes(made["whole"])
    assert whole == model_bytes(made["halved"])
    removed = made["halved"].parent / "checkpoints" / "step-000006"
    for path in sorted(removed.iterdir()):
        path.unlink()
    removed.rmdir()
    run_training(open_job(made["halved"]))
    assert model_bytes(made["halved"]) == whole
