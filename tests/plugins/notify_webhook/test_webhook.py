"""A webhook hears what becomes of a run, in its form, a few seconds at the most; nothing of this harms the run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from plugins.notify_webhook.webhook import SECRET, serve_webhook
from tunewright.contracts.checkpoints import CheckpointRef, continuation_digest
from tunewright.contracts.errors import InvalidExperiment, Unavailable
from tunewright.contracts.experiment import ExperimentSpec, ResolvedExperiment
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobHandle, JobSpec
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.notify_webhook import plugin, posting
from tunewright.notify_webhook.checks import findings_of

VARIABLE = "RUNS_WEBHOOK"
ALL = ["submitted", "checkpoint", "succeeded", "failed", "stopped"]
HANDLE = JobHandle(cluster="local", native_id="17")


def experiment(cluster: dict[str, Any] | None = None, **notifications: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({
        "name": "first",
        "model": {"name_or_path": "m"},
        "dataset": {"mix": [{"source": "s"}], "max_length_tokens": 8},
        "notifications": {"webhook_variable": VARIABLE, **notifications},
        "cluster": cluster or {},
    })  # fmt: skip


def job(tmp_path: Path, spec: ExperimentSpec) -> JobSpec:
    run_dir = str(tmp_path / "runs" / "first-1")
    return JobSpec(run="first-1", run_dir=run_dir, command=("x",), experiment=spec, secrets=spec.cluster.secrets)


def record(spec: ExperimentSpec, state: JobState, **outcome: Any) -> ProvenanceRecord:
    empty: dict[str, Any] = {name: {} for name in ("code", "data", "model", "environment", "randomness", "hardware")}
    return ProvenanceRecord(
        **empty, run="first-1", written_at="now", plugins={}, cluster={}, checkpoints=(), model_files=(),
        hyperparameters=spec.to_document(), metrics={"steps": 40, "last_loss": 1.23456},
        outcome=JobStatus(state=state, **outcome),
    )  # fmt: skip


def host() -> PluginHost:
    one = PluginHost()
    one.register(plugin, "notify-webhook")
    return one


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_PAUSES_SECONDS", (0.01, 0.02))
    monkeypatch.delenv("TUNEWRIGHT_HOME", raising=False)


def tell_everything(spec: ExperimentSpec, tmp_path: Path) -> list[str]:
    """Everything that can become of a run; what the host has to complain of."""
    one, planned = host(), job(tmp_path, spec)
    checkpoint = CheckpointRef(path="/c/step-000020", step=20, sha256="0" * 64)
    failed = record(spec, JobState.FAILED, cause=CauseKind.EXIT, exit_code=42, message="out of <luck> & time")
    complaints = [
        *one.notify("tunewright_run_submitted", handle=HANDLE, job=planned),
        *one.notify("tunewright_checkpoint_saved", checkpoint=checkpoint, job=planned),
        *one.notify("tunewright_run_finished", record=record(spec, JobState.SUCCEEDED, exit_code=0)),
        *one.notify("tunewright_run_finished", record=failed),
        *one.notify("tunewright_run_finished", record=record(spec, JobState.STOPPED, cause=CauseKind.STOPPED)),
        *one.notify("tunewright_run_finished", record=record(spec, JobState.TIMED_OUT, cause=CauseKind.TIMEOUT)),
    ]
    return complaints


def test_slack_hears_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_webhook() as webhook:
        monkeypatch.setenv(VARIABLE, webhook.url)
        assert not tell_everything(experiment(on=ALL), tmp_path)
    assert [body["text"] for body in webhook.received] == [
        "*first-1* submitted to local as 17",
        "*first-1* checkpoint after step 20",
        ":white_check_mark: *first-1* succeeded after 40 steps, loss 1.2346",
        ":x: *first-1* failed after 40 steps, loss 1.2346: exit code 42, exit, out of &lt;luck&gt; &amp; time",
        ":octagonal_sign: *first-1* stopped after 40 steps, loss 1.2346: exit code 75, stopped",
        ":x: *first-1* ran out of time after 40 steps, loss 1.2346: exit code 75, timeout",
    ]
    assert all(body.keys() == {"text"} for body in webhook.received)


def test_a_program_hears_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_webhook() as webhook:
        monkeypatch.setenv(VARIABLE, webhook.url)
        assert not tell_everything(experiment(on=ALL, format="json"), tmp_path)
    assert [body["event"] for body in webhook.received] == [*ALL, "failed"]
    told = webhook.received[3]
    assert (told["run"], told["state"], told["cause"], told["exit_code"]) == ("first-1", "FAILED", "exit", 42)
    assert (told["steps"], told["last_loss"], told["message"]) == (40, 1.23456, "out of <luck> & time")
    assert webhook.received[0]["native_id"] == "17"
    assert webhook.received[1]["step"] == 20


def test_only_what_was_asked_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_webhook() as webhook:
        monkeypatch.setenv(VARIABLE, webhook.url)
        tell_everything(experiment(), tmp_path)
        tell_everything(experiment(on=["stopped"]), tmp_path)
        silent = experiment().model_copy(update={"notifications": None})
        assert not tell_everything(silent, tmp_path)
    assert [body["text"].split()[2] for body in webhook.received] == [
        "succeeded",
        "failed",
        "stopped",
        "ran",
        "stopped",
    ]


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_webhook([503, 429]) as webhook:
        posting.post(webhook.url, b"{}")
        assert len(webhook.received) == 3
    for statuses in ([404], [302]):  # a redirected POST would lose its body
        with serve_webhook(statuses) as webhook, pytest.raises(Unavailable, match=f"status {statuses[0]}"):
            posting.post(webhook.url, b"{}")
        assert len(webhook.received) == 1
    with serve_webhook([500] * 9) as webhook, pytest.raises(Unavailable, match="status 500"):
        posting.post(webhook.url, b"{}")
    assert len(webhook.received) == 3


def test_a_webhook_that_hangs_is_left_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(posting, "_HURRIED_TIMEOUT_SECONDS", 0.2)
    for is_hurried, tries in ((True, 1), (False, 3)):
        with serve_webhook(pause=threading.Event()) as webhook:
            started = time.monotonic()
            with pytest.raises(Unavailable, match="the webhook was not told"):
                posting.post(webhook.url, b"{}", is_hurried)
            assert time.monotonic() - started < 5
            assert len(webhook.received) <= tries


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:9/{SECRET}", f"https://nowhere.invalid/{SECRET}", f"ftp://127.0.0.1/{SECRET}",
        f"file:///{SECRET}", f"http://127.0.0.1:port/{SECRET}", f"http://127.0.0.1:9/{SECRET} x\n", SECRET, "",
    ],
)  # fmt: skip
def test_a_failure_is_one_complaint_that_does_not_have_the_url(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    complaints = host().notify("tunewright_run_finished", record=record(experiment(), JobState.SUCCEEDED))
    assert len(complaints) == 1
    assert "told" in complaints[0]
    shown = capfd.readouterr()
    assert SECRET not in complaints[0] + shown.out + shown.err


def test_the_launcher_finds_the_url_where_it_keeps_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = experiment({"secrets": {VARIABLE: "team-webhook"}}, on=["submitted", "failed"])
    with serve_webhook() as webhook:
        (tmp_path / "secrets").mkdir()
        (tmp_path / "secrets" / "team-webhook").write_text(f"{webhook.url}\n")
        (tmp_path / "secrets" / "team-webhook").chmod(0o600)
        assert not host().notify("tunewright_run_submitted", handle=HANDLE, job=job(tmp_path, spec))
        monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path))
        assert not host().notify("tunewright_run_finished", record=record(spec, JobState.FAILED))
    assert len(webhook.received) == 2


@pytest.mark.parametrize(
    ("cluster", "on", "is_here", "found"),
    [
        ({}, ["succeeded"], False, [("webhook-unknown", "error")]),
        ({"environment": {VARIABLE: "http://x"}}, ["succeeded"], True, [("webhook-written-down", "error")]),
        ({}, ["checkpoint", "failed"], True, [("webhook-not-in-job", "warning")]),
        ({"secrets": {VARIABLE: "nowhere"}}, ["succeeded", "failed"], False, [("webhook-not-here", "warning")]),
        ({"secrets": {VARIABLE: "nowhere"}}, ["succeeded"], False, []),
        ({"secrets": {VARIABLE: "nowhere"}}, ALL, True, []),
        ({}, ["failed", "stopped"], True, []),
    ],
)  # fmt: skip
def test_preflight_asks_whether_the_url_is_to_be_had(
    cluster: dict[str, Any], on: list[str], is_here: bool, found: list[tuple[str, str]],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(VARIABLE, raising=False)
    if is_here:
        monkeypatch.setenv(VARIABLE, f"http://127.0.0.1/{SECRET}")
    resolved = ResolvedExperiment(spec=experiment(cluster, on=on), project_root="/p", home=str(tmp_path))
    findings = host().preflight(resolved)
    assert [(finding.code, finding.severity.value) for finding in findings] == found
    assert all(finding.path == "notifications.webhook_variable" and finding.hint for finding in findings)
    assert SECRET not in str(findings)


def test_an_experiment_without_notifications_is_not_judged() -> None:
    spec = experiment().model_copy(update={"notifications": None})
    assert not list(findings_of(ResolvedExperiment(spec=spec, project_root="/p", home="/h")))


def test_a_run_may_go_on_with_other_notifications() -> None:
    digests = {continuation_digest(experiment(on=on)) for on in (["failed"], ["checkpoint"])}
    without = experiment().model_copy(update={"notifications": None})
    assert digests == {continuation_digest(without)}


@pytest.mark.parametrize(
    "table",
    [
        {}, {"webhook_variable": "https://hooks.example.org/x"}, {"webhook_variable": VARIABLE, "on": []},
        {"webhook_variable": VARIABLE, "on": ["lunch"]}, {"webhook_variable": VARIABLE, "format": "teams"},
    ],
)  # fmt: skip
def test_a_wrong_table_is_named_as_the_user_wrote_it(table: dict[str, Any]) -> None:
    document = {**experiment().to_document(), "notifications": table}
    with pytest.raises(InvalidExperiment, match=r"notifications\."):
        parse_spec(ExperimentSpec, document, "experiment.toml", "")


def test_it_is_found_as_a_plugin() -> None:
    names = [installed.name for installed in PluginHost.discover().installed]
    assert "notify-webhook" in names


def test_nothing_is_imported_before_it_is_needed() -> None:
    program = "import sys, tunewright.notify_webhook.plugin; print([m for m in sys.modules if 'urllib.req' in m])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout == "[]\n"
