"""Cluster `sagemaker` does what every cluster must, where jobs are this machine's processes."""

from __future__ import annotations

import sys
from typing import ClassVar

import boto3
import pytest

from conformance import cluster_suite
from conformance.cluster_bench import Bench
from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.sagemaker import log_text, plugin
from tunewright.contracts.status import JobState

pytestmark = pytest.mark.timeout(180)


@pytest.mark.usefixtures("aws")
class TestSageMaker(ClusterConformance):
    plugin = plugin
    name = "sagemaker"
    options: ClassVar = {
        "role_arn": "arn:aws:iam::123456789012:role/training",
        "output_s3_uri": "s3://bucket/runs",
        "instance_type": "ml.m5.large",
        "region": "us-east-1",
        "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer:1",
        "python": sys.executable,
    }
    time_limit_options: ClassVar = {"max_runtime_seconds": 1}
    own_variables = frozenset(
        {"PATH", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_SECRETS_MANAGER",
         "TRAINING_JOB_NAME"}
    )  # fmt: skip

    @pytest.fixture(autouse=True)
    def _talk_in_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """CloudWatch tells of a line once it has ended: who lives must say so in lines."""
        in_lines = cluster_suite.FAMILY.replace("os.write(1, letter)", "os.write(1, letter + b'\\n')")
        monkeypatch.setattr(cluster_suite, "FAMILY", in_lines)
        monkeypatch.setattr(log_text, "FOLLOW_PAUSE_SECONDS", 0.1)

    def give_secret(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        boto3.client("secretsmanager").create_secret(Name=name, SecretString=value)

    def test_a_log_has_the_exact_bytes(self, bench: Bench) -> None:
        """CloudWatch keeps lines of UTF-8: other bytes and empty lines are lost, and a last newline is assumed."""
        data = "one\ttwo \\ \"'$$ é 日本 🎉\n  \x1b[1mthree\x1b[0m\r 50%\r100%\n".encode()
        _, log = bench.run(cluster_suite.PRINT_BYTES, data.hex())
        assert log == data

    def test_ten_megabytes_of_log_arrive(self, bench: Bench) -> None:
        """More than one answer of CloudWatch holds; moto takes a minute for 650,000 events."""
        _, log = bench.run("for number in range(12000): print(number)")
        assert log == b"".join(b"%d\n" % number for number in range(12000))

    def test_following_gives_everything_and_ends_with_the_job(self, bench: Bench) -> None:
        """As the suite's, in lines."""
        handle = bench.submit(bench.job("import time; print('first', flush=True); time.sleep(2.5); print('last')"))
        pieces = bench.cluster().logs(handle, follow=True)
        first = next(pieces)
        assert not bench.status(handle).state.is_terminal, "following gave nothing before the job's end"
        assert first + b"".join(pieces) == b"first\nlast\n"
        assert bench.status(handle).state.is_terminal, "following ended before the job"

    def test_a_failed_job_is_started_again(self, bench: Bench) -> None:
        """SageMaker says nothing of the starts inside a container that succeeds at last: only the job knows."""
        status, log = bench.run(cluster_suite.FAIL_TWICE, max_retries=3)
        assert log == b"attempt 0\nattempt 1\nattempt 2\n"
        assert status.state is JobState.SUCCEEDED
