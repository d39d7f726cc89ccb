"""Checks of clusters that start a job after others (`DEPENDS`) or take many at once (`ARRAY`); part of the suite."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from conformance.cluster_bench import Bench
from tunewright.contracts.clusters import ArrayCluster, Capability, DependsCluster
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.status import CauseKind, JobState

SILENCE_SECONDS = 0.4
CLOCKS_APART_SECONDS = 0.3

END_WITH = """
import os, sys, time
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
print(time.time(), flush=True)
sys.exit(int(sys.argv[1]))
"""
"""Ends with a code, once the test lets it go."""

SAY_WHEN = "import sys, time; print(sys.argv[1], time.time(), flush=True)"
SAY_BOTH_ENDS = """
import json, sys, time
started = time.time()
time.sleep(0.5)
print(json.dumps([sys.argv[1], started, time.time()]), flush=True)
sys.exit(int(sys.argv[2]))
"""


class OrderConformance:
    """What `ClusterConformance` has of jobs that wait for others and of arrays. Skipped where neither is claimed."""

    name: ClassVar[str]
    """The cluster's name, as users write it."""

    def need(self, bench: Bench, capability: Capability) -> None:
        """Skip a check that is about an ability the cluster does not claim."""
        if capability not in bench.info.capabilities:
            pytest.skip(f"cluster `{self.name}` does not claim `{capability}`")

    # Jobs after jobs.

    def ordered(self, bench: Bench) -> DependsCluster:
        """The cluster, as one that starts jobs after others."""
        self.need(bench, Capability.DEPENDS)
        cluster = bench.cluster()
        assert isinstance(cluster, DependsCluster), "claims `depends`, but has no submit_after"
        return cluster

    def submit_after(self, bench: Bench, job: JobSpec, after: Sequence[JobHandle], key: str | None = None) -> JobHandle:
        """Submit `job` to start after others."""
        handle = self.ordered(bench).submit_after(bench.plan(job), key or job.run, after)
        return bench.keep(handle.model_dump_json())

    def test_a_job_starts_once_those_before_it_have_succeeded(self, bench: Bench) -> None:
        self.ordered(bench)
        first = [bench.submit(bench.job(END_WITH, "0", str(bench.gate))) for _ in range(2)]
        last = self.submit_after(bench, bench.job(SAY_WHEN, "last"), first)
        waiting = bench.status(last)
        assert waiting.state in (JobState.PENDING, JobState.QUEUED), f"a job whose turn has not come is {waiting}"
        bench.gate.touch()
        ended = bench.wait(last)
        assert ended.state is JobState.SUCCEEDED, f"the job after the others is {ended}"
        states = [bench.status(handle).state for handle in first]
        assert states == [JobState.SUCCEEDED] * 2, f"it ran while those before it were {states}"
        started, ends = float(bench.log(last).split()[1]), [float(bench.log(handle)) for handle in first]
        assert started > max(ends) - CLOCKS_APART_SECONDS, f"it started at {started}, those before it ended at {ends}"

    def test_a_job_after_one_that_fails_never_starts(self, bench: Bench) -> None:
        self.ordered(bench)
        first = bench.submit(bench.job(END_WITH, "3", str(bench.gate)))
        second = self.submit_after(bench, bench.job(SAY_WHEN, "second"), [first])
        third = self.submit_after(bench, bench.job(SAY_WHEN, "third"), [second])
        bench.gate.touch()
        for handle in (second, third):
            ended = bench.wait(handle)
            told = (ended.state, ended.cause)
            assert told == (JobState.STOPPED, CauseKind.DEPENDENCY), f"a job after one that failed is {ended}"
            assert bench.log(handle) == b"", f"a job after one that failed ran: {bench.log(handle)!r}"
        assert bench.status(first).exit_code == 3, "the end of the first job is lost"

    def test_submitting_after_twice_finds_the_first_job(self, bench: Bench) -> None:
        self.ordered(bench)
        first = bench.submit(bench.job(END_WITH, "0", str(bench.gate)))
        job = bench.job(SAY_WHEN, "ran")
        handles = [self.submit_after(bench, job, [first], "after-key") for _ in range(2)]
        bench.gate.touch()
        assert handles[0] == handles[1], f"one key has several jobs: {handles}"
        bench.wait(handles[0])
        time.sleep(SILENCE_SECONDS)
        assert bench.log(handles[0]).count(b"ran") == 1, "submitted once, the job ran twice"

    def test_a_waiting_job_can_be_stopped(self, bench: Bench) -> None:
        self.ordered(bench)
        first = bench.submit(bench.job(END_WITH, "0", str(bench.gate)))
        waiting = self.submit_after(bench, bench.job(SAY_WHEN, "second"), [first])
        bench.cluster().stop(waiting)
        bench.gate.touch()
        ended = bench.wait(waiting)
        assert ended.state is JobState.STOPPED, f"a waiting job that was stopped is {ended}"
        assert bench.wait(first).state is JobState.SUCCEEDED, "stopping the one that waits ends the one before it"
        time.sleep(SILENCE_SECONDS)
        assert bench.log(waiting) == b"", "a stopped job started after all"

    # Arrays.

    def array_of(self, bench: Bench, jobs: Sequence[JobSpec], at_most: int | None, **options: Any) -> SubmissionPlan:
        """One plan for all of them, after a way through a file."""
        self.need(bench, Capability.ARRAY)
        cluster = bench.cluster()
        assert isinstance(cluster, ArrayCluster), "claims `array`, but has not all that ArrayCluster has"
        assert cluster.largest_array(bench.options(**options)) >= len(jobs), f"no array of {len(jobs)} jobs may be sent"
        plan = cluster.plan_array(jobs, bench.options(**options), at_most)
        again = cluster.plan_array(jobs, bench.options(**options), at_most)
        assert plan == again, "equal arrays give different plans"
        return SubmissionPlan.model_validate_json(plan.model_dump_json())

    def submit_array(self, bench: Bench, plan: SubmissionPlan, key: str) -> list[JobHandle]:
        """The handles of its jobs, which are ended after the check."""
        cluster = bench.cluster()
        assert isinstance(cluster, ArrayCluster)
        return [bench.keep(handle.model_dump_json()) for handle in cluster.submit_array(plan, key)]

    def test_each_job_of_an_array_is_told_its_own_and_ends_its_own_way(self, bench: Bench) -> None:
        self.need(bench, Capability.ARRAY)
        names, codes = ["it's", 'a "b" $HOME', "日本\n", ""], ["0", "5", "0", "0"]
        jobs = [bench.job(SAY_BOTH_ENDS, *pair) for pair in zip(names, codes, strict=True)]
        handles = self.submit_array(bench, self.array_of(bench, jobs, None), "array-key")
        assert len(set(handles)) == len(jobs), f"{len(jobs)} jobs have the handles {handles}"
        ended = [bench.wait(handle) for handle in handles]
        assert [status.exit_code or 0 for status in ended] == [0, 5, 0, 0], f"the array's jobs ended as {ended}"
        said = [json.loads(bench.log(handle))[0] for handle in handles]
        assert said == names, f"the array's jobs were told {said}"

    def test_an_array_runs_no_more_at_a_time_than_it_may(self, bench: Bench) -> None:
        self.need(bench, Capability.ARRAY)
        jobs = [bench.job(SAY_BOTH_ENDS, str(number), "0") for number in range(3)]
        handles = self.submit_array(bench, self.array_of(bench, jobs, 1), "one-at-a-time")
        for handle in handles:
            bench.wait(handle)
        times = sorted(tuple(json.loads(bench.log(handle))[1:]) for handle in handles)
        overlaps = [later[0] < earlier[1] for earlier, later in zip(times, times[1:], strict=False)]
        assert not any(overlaps), f"at most one at a time, they ran at {times}"

    def test_submitting_an_array_twice_finds_the_first(self, bench: Bench) -> None:
        self.need(bench, Capability.ARRAY)
        plan = self.array_of(bench, [bench.job(SAY_WHEN, str(number)) for number in range(2)], None)
        first, second = (self.submit_array(bench, plan, "twice") for _ in range(2))
        assert first == second, f"one key has several arrays: {first}, {second}"
        for handle in first:
            bench.wait(handle)
        time.sleep(SILENCE_SECONDS)
        counts = [len(bench.log(handle).splitlines()) for handle in first]
        assert counts == [1, 1], f"submitted once, the jobs ran {counts} times"

    def test_one_job_of_an_array_can_be_stopped(self, bench: Bench) -> None:
        self.need(bench, Capability.ARRAY)
        sleeper = bench.job("import time; print('up', flush=True); time.sleep(600)")
        other = bench.job(SAY_BOTH_ENDS, "other", "0")
        stopped, left = self.submit_array(bench, self.array_of(bench, [sleeper, other], None), "stop-one")
        bench.wait_for_log(stopped, b"up")
        bench.cluster().stop(stopped)
        assert bench.wait(stopped).state is JobState.STOPPED, "a stopped job of an array is not STOPPED"
        assert bench.wait(left).state is JobState.SUCCEEDED, "stopping one job of an array ends another"
