"""What became of an attempt, and what the daemon's words mean: pure, without a daemon."""

from __future__ import annotations

from typing import Any

import pytest

from tunewright.clusters.docker.supervision.engine import Engine
from tunewright.clusters.docker.supervision.judge import NodeEnd, judge, may_try_again
from tunewright.clusters.docker.supervision.refusals import complaint_in_words, in_words

PLAN: dict[str, Any] = {"memory_gib": 2, "time_limit_seconds": 60}


@pytest.mark.parametrize(
    ("end", "state", "cause", "exit_code", "signal"),
    [
        (NodeEnd(0, 0), "SUCCEEDED", "exit", 0, None),
        (NodeEnd(0, 0, is_out_of_memory=True), "SUCCEEDED", "exit", 0, None),
        (NodeEnd(0, 42), "FAILED", "exit", 42, None),
        (NodeEnd(0, 255), "FAILED", "exit", 255, None),
        (NodeEnd(0, 128), "FAILED", "exit", 128, None),
        (NodeEnd(0, 127), "FAILED", "exit", 127, None),
        (NodeEnd(0, 127, complaint="there is no program"), "FAILED", "image_missing", 127, None),
        (NodeEnd(0, 137), "FAILED", "signal", None, 9),
        (NodeEnd(0, 143), "FAILED", "signal", None, 15),
        (NodeEnd(0, 137, is_out_of_memory=True), "FAILED", "out_of_memory", None, 9),
        (NodeEnd(0, 1, is_out_of_memory=True), "FAILED", "out_of_memory", 1, None),
        (NodeEnd(0, None), "FAILED", "node_lost", None, None),
    ],
)
def test_each_end_has_its_verdict(
    end: NodeEnd, state: str, cause: str, exit_code: int | None, signal: int | None
) -> None:
    ended = judge(None, [end], PLAN)
    told = (ended["state"], ended["cause"], ended["exit_code"], ended["signal"])
    assert told == (state, cause, exit_code, signal)


def test_the_first_node_to_fail_is_the_cause_though_dockers_times_do_not_sort_as_texts() -> None:
    ends = [
        NodeEnd(0, 143, finished_at="2026-11-21T10:00:00.12Z"),
        NodeEnd(1, 7, finished_at="2026-11-21T10:00:00.1Z"),
        NodeEnd(2, 0, finished_at="2026-11-21T09:00:00Z"),
    ]
    ended = judge(None, ends, PLAN)
    assert (ended["exit_code"], ended["message"]) == (7, "node 1 ended with exit code 7")


def test_who_ends_a_job_is_its_cause_whatever_its_nodes_say() -> None:
    ends = [NodeEnd(0, 137), NodeEnd(1, 0)]
    stopped, timed_out = judge("stopped by a user", ends, PLAN), judge("timeout", ends, PLAN)
    assert (stopped["state"], stopped["cause"], stopped["message"]) == ("STOPPED", "stopped", "stopped by a user")
    assert (timed_out["state"], timed_out["cause"]) == ("TIMED_OUT", "timeout")
    assert "60" in timed_out["message"]


@pytest.mark.parametrize(
    ("end", "attempt", "may"),
    [
        (NodeEnd(0, 1), 0, True),
        (NodeEnd(0, 1), 1, False),
        (NodeEnd(0, 137), 0, True),
        (NodeEnd(0, None), 0, True),
        (NodeEnd(0, 0), 0, False),
        (NodeEnd(0, 78), 0, False),
        (NodeEnd(0, 127, complaint="no program"), 0, False),
    ],
)
def test_a_retry_needs_one_left_and_hope(end: NodeEnd, attempt: int, may: bool) -> None:
    assert may_try_again(judge(None, [end], PLAN), attempt, 1) is may


def test_what_was_stopped_is_not_tried_again() -> None:
    assert not may_try_again(judge("stopped by a user", [NodeEnd(0, 143)], PLAN), 0, 9)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "no GPU"),
        ("nvidia-container-cli: device error: 7: unknown device: unknown", "7: unknown device"),
        ('invalid mount config for type "bind": bind source path does not exist: /data', "/data is to be mounted"),
        ("No such image: sha256:abc", "sha256:abc is not here"),
        ("unable to find user bob: no matching entries in passwd file", "no user `bob`"),
        ("could not find an available, non-overlapping IPv4 address pool among the defaults", "no address left"),
        ("something new", "Docker says: something new"),
    ],
)
def test_what_the_daemon_says_is_put_in_words(message: str, words: str) -> None:
    assert words in str(in_words(message))


def test_a_complaint_that_nobody_knows_is_passed_on_as_it_is() -> None:
    assert complaint_in_words("sh: 9: cannot create x") == "sh: 9: cannot create x"
    assert "no /bin/sh" in complaint_in_words("[FATAL tini (7)] exec /bin/sh failed: No such file or directory")


@pytest.mark.parametrize("host", ["ssh://a", "unix://", "tcp://a", "tcp://:1", "tcp://a:b", "", "a"])
def test_a_place_that_is_no_daemons_is_refused_by_name(host: str) -> None:
    with pytest.raises(ValueError, match=r"unix:///path|tcp://name:port"):
        Engine(host)
