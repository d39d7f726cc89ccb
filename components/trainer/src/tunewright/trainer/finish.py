"""The end of a training: the model as users load it, and the record."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.provenance import TrainingSummary, compose_record, write_record
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer.checkpoints import barrier
from tunewright.trainer.metrics import read_metrics
from tunewright.trainer.model_card import model_card
from tunewright.trainer.models import save_whole
from tunewright.trainer.train import Setting, Training, write_summary


def finish(setting: Setting, training: Training, summary: TrainingSummary) -> None:
    """Write the model, the summary and the record, in this order; then tell the listeners."""
    if setting.place.is_main:
        lines = read_metrics(setting.run.metrics)
        ended = summary.model_copy(
            update={
                "ended_at": utc_now(),
                "steps": training.step,
                "tokens": training.tokens,
                "first_loss": lines[0]["loss"] if lines else None,
                "last_loss": lines[-1]["loss"] if lines else None,
            }
        )
        save_whole(setting.run.model, lambda draft: write_model(setting, training, ended, draft))
        write_summary(setting, ended)
        status = JobStatus(
            state=JobState.SUCCEEDED, cause=CauseKind.EXIT, exit_code=0, started_at=ended.started_at, ended_at=ended.ended_at
        )
        record = compose_record(setting.run, status, utc_now())
        write_record(setting.run, record)
        for complaint in setting.host.notify("tunewright_run_finished", record=record):
            setting.say(complaint)
        setting.say(f"model: {setting.run.model}")
    barrier()


def write_model(setting: Setting, training: Training, summary: TrainingSummary, directory: Path) -> None:
    """What the variant keeps, the tokenizer with the template that was trained on, and a card."""
    setting.variant.save(training.model, directory, setting.context)
    save_tokenizer(setting, directory)
    (directory / "README.md").write_text(model_card(setting.job, setting.manifest, summary))


def save_tokenizer(setting: Setting, directory: Path) -> None:
    """The base model's tokenizer, with the chat template of the dataset: what inference must use."""
    from transformers import AutoTokenizer

    reference = setting.context.reference
    tokenizer = AutoTokenizer.from_pretrained(
        reference.name_or_path, revision=reference.revision, trust_remote_code=False
    )
    template = setting.manifest.key.get("chat_template", {}).get("source")
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def fail(setting: Setting, summary: TrainingSummary, training: Training | None, error: BaseException) -> None:
    """Keep why it ended early. Whoever watches the run writes the record."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    update = {"ended_at": utc_now(), "error": words, "steps": training.step if training else 0}
    write_summary(setting, summary.model_copy(update=update))
