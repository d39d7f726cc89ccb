"""The conformance suite is itself tested: each seeded fault is caught, by the check that is there for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import faulty_clusters, faulty_orders
from conformance.fault_bench import CAUGHT, run_check

CAUGHT_BY: dict[str, tuple[str, str]] = {
    "PlansWithRandomId": ("a_plan_is_the_same_bytes_in_another_process", "different plans"),
    "PlansWithTime": ("a_plan_is_the_same_bytes_in_another_process", "different plans"),
    "PlansInSetOrder": ("a_plan_is_the_same_bytes_in_another_process", "different plans"),
    "PlansWithTheUsersName": ("a_plan_is_the_same_bytes_in_another_process", "different plans"),
    "PlansWithAFile": ("planning_has_no_effect", "plan.tmp"),
    "PlansSecretValues": ("a_secret_arrives_and_is_written_nowhere", "the plan has the secret"),
    "RunsAnyNumberOfNodesAsOne": ("more_nodes_than_it_can_are_refused_in_words", "DID NOT RAISE"),
    "PromisesSeveralNodes": ("more_nodes_than_it_can_are_refused_in_words", "nodes"),
    "LeaksTheClientsEnvironment": ("nothing_of_the_clients_environment_arrives", "LEAKED"),
    "JoinsArgumentsForAShell": ("every_argument_arrives_as_it_is", "changed|only prints has failed"),
    "SubmitsEveryTime": ("submitting_twice_finds_the_first_job", "several jobs"),
    "IgnoresTheKey": ("another_key_is_another_job", "two keys"),
    "KillsTheJobWithTheClient": ("a_job_outlives_its_client", "killed client"),
    "LosesExitCodes": ("an_exit_code_arrives", "42 became 1"),
    "RaisesForUnknownJobs": ("an_unknown_job_is_not_found", "no such job"),
    "DropsTheLastLine": ("a_log_has_the_exact_bytes", "not what was written"),
    "DecodesLogs": ("a_log_has_the_exact_bytes", "not what was written"),
    "KeepsOneMegabyteOfLog": ("ten_megabytes_of_log_arrive", "1048576 arrived"),
    "FollowsWithoutFollowing": ("following_gives_everything_and_ends_with_the_job", "following gave"),
    "IgnoresSince": ("a_log_can_be_read_from_any_byte", "`since`"),
    "AnswersForEveryReplica": ("a_node_that_is_not_there_has_no_log_in_words", "DID NOT RAISE"),
    "StopsOnlyOnce": ("stopping_is_idempotent", "stopped already"),
    "StopsTheMainProcessOnly": ("stopping_ends_the_whole_tree", "a stopped job is"),
    "LeavesGrandchildren": ("stopping_ends_the_whole_tree", "still live.*'g'"),
    "ForgivesTheDeaf": ("stopping_ends_the_whole_tree", "does not end"),
    "CountsNoAttempts": ("a_failed_job_is_started_again", "the attempts were"),
    "RetriesForever": ("without_retries_a_job_runs_once", "the attempts were"),
    "RetriesWhatWasStopped": ("a_stopped_job_is_not_started_again", "does not end"),
    "CallsSignalsFailures": ("a_signal_is_told", "SIGKILL became 1"),
    "KnowsNoMemory": ("running_out_of_memory_is_told_apart", "out of memory is"),
    "CallsTimeoutsStopped": ("a_time_limit_ends_the_job", "over its time"),
    "AddsVariables": ("no_variable_is_added_that_nobody_told_of", "JOB_KEY"),
    "GivesAnOpenInput": ("standard_input_is_empty", "something in it"),
    "WritesSecrets": ("a_secret_arrives_and_is_written_nowhere", "written in"),
    "GivesEveryNodeTheSameRank": ("each_node_is_told_its_rank_and_the_same_meeting_place", "have the ranks"),
    "SendsEachNodeElsewhere": ("each_node_is_told_its_rank_and_the_same_meeting_place", "several places"),
    "SendsNodesWhereNobodyIs": ("the_nodes_meet_where_they_were_told_to", "did not meet|does not end"),
    "LeavesTheOtherNodesRunning": ("a_node_that_fails_ends_the_job", "does not end"),
    "TellsTheFirstNodesEnd": ("a_node_that_fails_ends_the_job", "ended with 7 is"),
    "TellsOneNodeOfOthers": ("one_node_is_told_of_no_others", "meet others"),
    "ErrorsGoElsewhere": ("standard_output_and_error_are_both_in_the_log", "not in order"),
}
"""Fault: the check that catches it, and what its complaint says."""


def test_every_seeded_fault_has_a_check_that_is_there_for_it() -> None:
    assert CAUGHT_BY.keys() == {*faulty_clusters.FAULTS, "PromisesSeveralNodes"}


@pytest.mark.parametrize(
    "check",
    [
        "each_node_is_told_its_rank_and_the_same_meeting_place",
        "the_nodes_meet_where_they_were_told_to",
        "a_node_that_fails_ends_the_job",
        "one_node_is_told_of_no_others",
        "more_nodes_than_it_can_are_refused_in_words",
    ],
)
def test_several_nodes_without_a_fault_pass(check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_check(faulty_clusters, "SeveralLocalNodes", check, tmp_path, monkeypatch)


@pytest.mark.parametrize("fault", CAUGHT_BY)
def test_the_suite_catches(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, complaint = CAUGHT_BY[fault]
    with pytest.raises(CAUGHT, match=f"(?s){complaint}"):
        run_check(faulty_clusters, fault, check, tmp_path, monkeypatch)


ORDERS_CAUGHT_BY: dict[str, tuple[str, str]] = {
    "StartsAtOnce": ("a_job_starts_once_those_before_it_have_succeeded", "whose turn has not come|it started at"),
    "StartsAfterAnyEnd": ("a_job_after_one_that_fails_never_starts", "after one that failed is"),
    "ForgetsWhyItNeverRan": ("a_job_after_one_that_fails_never_starts", "after one that failed is"),
    "SubmitsEveryTimeAfter": ("submitting_after_twice_finds_the_first_job", "several jobs"),
    "CannotStopWhatWaits": ("a_waiting_job_can_be_stopped", "that was stopped is|started after all"),
    "StopsWhatItWaitsFor": ("a_waiting_job_can_be_stopped", "ends the one before it"),
    "TellsEveryJobTheSame": ("each_job_of_an_array_is_told_its_own_and_ends_its_own_way", "were told|ended as"),
    "TellsOneEndForAll": ("each_job_of_an_array_is_told_its_own_and_ends_its_own_way", "ended as"),
    "RunsAllAtATime": ("an_array_runs_no_more_at_a_time_than_it_may", "they ran at"),
    "SubmitsArraysEveryTime": ("submitting_an_array_twice_finds_the_first", "several arrays"),
    "StopsTheWholeArray": ("one_job_of_an_array_can_be_stopped", "ends another"),
}
"""The same for jobs after jobs and for arrays."""


def test_every_seeded_fault_of_order_has_a_check_that_is_there_for_it() -> None:
    assert ORDERS_CAUGHT_BY.keys() == faulty_orders.FAULTS.keys()


@pytest.mark.parametrize("check", sorted({check for check, _ in ORDERS_CAUGHT_BY.values()}))
def test_jobs_in_order_without_a_fault_pass(check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_check(faulty_orders, "LocalInOrder", check, tmp_path, monkeypatch)


@pytest.mark.parametrize("fault", ORDERS_CAUGHT_BY)
def test_the_suite_catches_in_orders(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, complaint = ORDERS_CAUGHT_BY[fault]
    with pytest.raises(CAUGHT, match=f"(?s){complaint}"):
        run_check(faulty_orders, fault, check, tmp_path, monkeypatch)
