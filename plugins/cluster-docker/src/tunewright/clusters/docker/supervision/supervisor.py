"""Runs one job to its end: attempt after attempt, through the death of a container, of the daemon, or of its own.

Each step is written down before the next, and every step can be done again: whoever takes a job over reads what was
done last and goes on. What must survive a killed supervisor is in `state.json` or in Docker.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from tunewright.clusters.docker.supervision.containers import (
    LABEL,
    container_body,
    container_name,
    network_body,
    secrets_text,
)
from tunewright.clusters.docker.supervision.engine import DaemonGoneError, DockerError, Engine
from tunewright.clusters.docker.supervision.judge import NodeEnd, judge, may_try_again, outcome
from tunewright.clusters.docker.supervision.record import CONCLUDE, ENDED, START, WATCH, Record, now
from tunewright.clusters.docker.supervision.refusals import complaint_in_words, in_words
from tunewright.clusters.docker.supervision.watching import DaemonBack, DaemonGone, Ended, Watch

WATCH_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
LAST_WORD_SECONDS = 3600
MEMORY_NEWS_SECONDS = 0.5
SIGKILL_EXIT_CODE = 137
ANOTHER_NODE_FAILED = "another node failed"

Answer = TypeVar("Answer")


class Supervisor:
    """One job. `secrets` is None where nobody knows them any more: a retry needs them."""

    def __init__(self, directory: str, record: Record, secrets: dict[str, str] | None) -> None:
        self.directory = directory
        self.record = record
        self.secrets = secrets
        self.plan: dict[str, Any] = self._read("docker.json")
        self.known: dict[str, str] = self._read("known.json")
        self.bodies: list[dict[str, Any]] = [self._read(name) for name in self.plan["nodes"]]
        self.engine = Engine(self.known["host"])

    def _read(self, name: str) -> Any:
        with open(os.path.join(self.directory, name), encoding="utf-8") as file:
            return json.load(file)

    # The first start: the submitter waits, and hears what the daemon says to it.

    def begin(self) -> None:
        """Start the first attempt. Raises DockerError or DaemonGoneError, with nothing left of it."""
        limit = self.plan["time_limit_seconds"]
        try:
            self.make_containers()
            self.record.change_state("STARTING", deadline=time.time() + limit if limit is not None else None)
            self.start_containers()
        except (DockerError, DaemonGoneError):
            with contextlib.suppress(DockerError, DaemonGoneError):
                self.clean()
            self.record.forget()
            raise

    # The steps.

    def run(self) -> None:
        """Step after step, to the last word."""
        steps = {START: self.start_attempt, WATCH: self.see_to_its_end, CONCLUDE: self.conclude}
        while self.record.phase != ENDED:
            steps[self.record.phase]()

    def start_attempt(self) -> None:
        """Make and start the attempt's containers. That it cannot be done is an outcome too."""
        reason = self.reason_to_end()
        if reason:
            self.decide(judge(reason, [NodeEnd(0, 0)], self.plan), exit_code=None)
        elif self.secrets is None and self.plan["secrets"]:
            message = "could not be started again: its secrets were known to its supervisor only, which was killed"
            self.decide(outcome("FAILED", "image_missing", message))
        else:
            self.try_to_start()

    def try_to_start(self) -> None:
        """One try. What was left of an earlier one goes."""
        try:
            self.patiently(self.make_and_start)
        except DockerError as error:
            self.decide(outcome("FAILED", "image_missing", f"could not be started: {in_words(error.message)}"))

    def make_and_start(self) -> None:
        """Both together: where the daemon goes away in the middle, none is used that was half started."""
        self.make_containers()
        self.start_containers()

    def make_containers(self) -> None:
        """The attempt's containers, and the job's network where it has one. They do not run yet."""
        self.remove_leftovers()
        if self.plan["network"]:
            self.engine.create_network(network_body(self.plan["network"], self.known))
        made = []
        for rank, planned in enumerate(self.bodies):
            name = container_name(self.known["id"], rank, self.record.attempt)
            made.append(self.engine.create(name, container_body(planned, self.known, self.record.attempt)))
        self.record.document["containers"] = made  # written down with the next state: until then they are leftovers

    def remove_leftovers(self) -> None:
        """Containers of this attempt that somebody made and did not live to use."""
        for container in self.engine.labelled(f"{LABEL}.id={self.known['id']}"):
            if container["Labels"].get(f"{LABEL}.attempt") == str(self.record.attempt):
                self.engine.remove(container["Id"])

    def start_containers(self) -> None:
        """Let them go, each with its secrets."""
        inputs = [self.engine.open_input(one) for one in self.record.containers] if self.plan["secrets"] else []
        for container in self.record.containers:
            self.engine.start(container)
        for connection in inputs:
            connection.sendall(secrets_text(self.secrets or {}))
            connection.close()  # what was sent is still read, and then the input ends
        self.record.change_state(
            "RUNNING", phase=WATCH, started_at=self.record.document["started_at"] or now(),
            cause=None, exit_code=None, signal=None, message="",
        )  # fmt: skip

    def see_to_its_end(self) -> None:
        """From started containers to the verdict, with nothing of the job running."""
        watch = Watch(self.engine, self.record.containers)
        left = set(range(len(self.record.containers)))
        ended_by = self.watch_until(watch, left, None)
        if left:
            self.end_containers(watch, left)
        ends = [self.patiently(partial(self.end_of, rank)) for rank in range(len(self.record.containers))]
        self.decide(judge(None if ended_by == ANOTHER_NODE_FAILED else ended_by, ends, self.plan))

    def watch_until(self, watch: Watch, left: set[int], deadline: float | None) -> str | None:
        """Wait until no node is `left`, or there is a reason to end them: that, or None. With `deadline` only wait."""
        while left and (deadline is None or time.monotonic() < deadline):
            reason = self.reason_to_end() if deadline is None else None
            if reason:
                return reason
            event = watch.next_event(WATCH_SECONDS if deadline is None else deadline - time.monotonic())
            if isinstance(event, DaemonGone):
                self.tell_gone(event.words)
            elif isinstance(event, DaemonBack):
                self.tell_back()
            elif isinstance(event, Ended):
                left.discard(event.rank)
                if event.exit_code != 0 and left and deadline is None:
                    return ANOTHER_NODE_FAILED
        return None

    def end_containers(self, watch: Watch, left: set[int]) -> None:
        """SIGTERM, and after the grace SIGKILL: with a container's first process everything in it ends."""
        grace_seconds = float(self.plan["stop_grace_seconds"])
        if grace_seconds:
            self.send(left, "SIGTERM")
            self.watch_until(watch, left, time.monotonic() + grace_seconds)
        while left:
            self.send(left, "SIGKILL")
            self.watch_until(watch, left, time.monotonic() + 5.0)

    def send(self, ranks: set[int], signal_name: str) -> None:
        """Signal the containers of `ranks`."""
        for rank in sorted(ranks):
            container = self.record.containers[rank]
            with contextlib.suppress(DockerError):  # one that cannot be signalled will be tried again
                self.patiently(partial(self.engine.kill, container, signal_name))

    def end_of(self, rank: int) -> NodeEnd:
        """How node `rank` ended."""
        container = self.record.containers[rank]
        state = self.engine.state(container)
        if state is None:
            return NodeEnd(rank, None)
        if state["ExitCode"] == SIGKILL_EXIT_CODE and not state["OOMKilled"]:
            state = self.late_news(container) or state
        complaint = complaint_in_words(self.engine.complaint(container)) if state["ExitCode"] else ""
        return NodeEnd(rank, state["ExitCode"], bool(state["OOMKilled"]), state["FinishedAt"], complaint)

    def late_news(self, container: str) -> dict[str, Any] | None:
        """Docker may hear of the end before it hears that memory was the cause."""
        deadline = time.monotonic() + (MEMORY_NEWS_SECONDS if self.plan["memory_gib"] else 0)
        state = self.engine.state(container)
        while state and not state["OOMKilled"] and time.monotonic() < deadline:
            time.sleep(0.05)
            state = self.engine.state(container)
        return state

    def decide(self, verdict: dict[str, Any], **changes: Any) -> None:
        """Write down how the attempt ended, before anything that shows it is removed."""
        self.record.change(phase=CONCLUDE, outcome={**verdict, **changes})

    def conclude(self) -> None:
        """Clean up, and go on to the next attempt or to the last word."""
        ended = self.record.document["outcome"]
        if may_try_again(ended, self.record.attempt, self.plan["max_retries"]) and not self.reason_to_end():
            self.patiently(self.remove_containers)
            attempt = self.record.attempt + 1
            message = f"{ended['message']}; retry {attempt} of {self.plan['max_retries']} follows"
            told = {**ended, "state": "REQUEUED", "message": message}
            self.record.change_state(**told, phase=START, attempt=attempt, containers=[], outcome=None)
            self.pause(min(0.2 * 2.0 ** min(attempt - 1, 10), LONGEST_PAUSE_SECONDS))
        else:
            self.patiently(self.clean)
            self.say_the_last_word(ended)

    def say_the_last_word(self, ended: dict[str, Any]) -> None:
        """A full disk may become free again: nobody else knows how the job ended."""
        is_written = self.record.change_state(**ended, phase=ENDED, ended_at=now())
        for _ in range(LAST_WORD_SECONDS):
            if is_written or not os.path.isdir(self.directory):
                return
            time.sleep(1)
            is_written = self.record.change()

    def clean(self) -> None:
        """Leave nothing in Docker."""
        self.remove_containers()
        if self.plan["network"]:
            self.try_to(partial(self.engine.remove_network, self.known["id"]))

    def remove_containers(self) -> None:
        """All the job's containers, whatever the attempt, unless the user wants to keep them."""
        if self.plan["keep_containers"] and self.record.phase == CONCLUDE:
            return
        for container in self.engine.labelled(f"{LABEL}.id={self.known['id']}"):
            self.try_to(partial(self.engine.remove, container["Id"]))

    def try_to(self, call: Callable[[], None]) -> None:
        """What cannot be cleaned is complained of; the job's outcome stays what it is."""
        try:
            call()
        except DockerError as error:
            print(f"cannot clean up: {error.message}", file=sys.stderr, flush=True)

    # What may come in between.

    def reason_to_end(self) -> str | None:
        """`timeout`, a sentence for a stop, or None."""
        if os.path.exists(os.path.join(self.directory, "stop")):
            return "stopped by a user"
        if not os.path.isdir(self.directory):
            return "its run's directory was removed"
        deadline = self.record.document["deadline"]
        return "timeout" if deadline is not None and time.time() > deadline else None

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt, unless there is a reason to end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.reason_to_end():
            time.sleep(min(WATCH_SECONDS, max(0.0, end - time.monotonic())))

    def patiently(self, call: Callable[[], Answer]) -> Answer:
        """Do it, however long the daemon is away. What it does is safe to do again."""
        while True:
            try:
                answer = call()
            except DaemonGoneError as error:
                self.tell_gone(str(error))
                time.sleep(1)
            else:
                self.tell_back()
                return answer

    def tell_gone(self, words: str) -> None:
        """The job may run or not: only the daemon knows."""
        if self.record.document["state"] != "UNKNOWN":
            message = f"the Docker daemon at {self.engine.host} does not answer: {words}"
            self.record.change_state("UNKNOWN", before=self.record.document["state"], message=message)

    def tell_back(self) -> None:
        """As it was before the daemon went away."""
        if self.record.document["state"] == "UNKNOWN":
            self.record.change_state(self.record.document["before"], message="")
