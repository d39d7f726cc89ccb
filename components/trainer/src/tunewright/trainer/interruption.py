"""Ending before the end: a signal asks for it, the next step's checkpoint is saved, and the deadline is kept.

SIGTERM and SIGUSR1 are heard in a thread of their own, so that the deadline holds while the main thread is inside a
library. The processes of a node are told by a file of the node's: their node may be the only one that gets the signal.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.files import write_text_atomically

GRACE_VARIABLE = "TUNEWRIGHT_GRACE_SECONDS"
"""How long a process has from the signal to its end."""

DEFAULT_GRACE_SECONDS = 25.0
"""Kubernetes kills 30 s after SIGTERM, Slurm too: some are left for the end itself."""

NODE_DIRECTORY_VARIABLE = "TUNEWRIGHT_NODE_DIRECTORY"
"""Where a node and the processes it started leave word for one another. Set by the node for its processes."""

REQUEUE_EXIT_CODE = 75
"""Interrupted, and there is a checkpoint to go on from: start it again."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_POLL_SECONDS = 0.2
_SECONDS_FOR_THE_NODES_WORD = 2.0

OnSignal = Callable[[int], None]
Leave = Callable[[int], None]


def grace_seconds(environment: Mapping[str, str]) -> float:
    """What `TUNEWRIGHT_GRACE_SECONDS` says, else 25. Raises InvalidExperiment for what is no number of seconds."""
    text = environment.get(GRACE_VARIABLE, "") or str(DEFAULT_GRACE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidExperiment(f"{GRACE_VARIABLE}={text}: must be a number of seconds, 0 or more")
    return seconds


class NodeDirectory:
    """The files by which a node and its processes speak to one another."""

    def __init__(self, path: Path) -> None:
        self._interrupted, self._exit_code = path / "interrupted", path / "exit_code"

    @classmethod
    def of_this_process(cls) -> NodeDirectory | None:
        """That of the node which started this process; None where no node did."""
        path = os.environ.get(NODE_DIRECTORY_VARIABLE)
        return cls(Path(path)) if path and "RANK" in os.environ else None

    def interrupt(self, number: int, deadline: float) -> None:
        """Tell the processes that they are to end by `deadline`, a reading of `time.monotonic`."""
        write_text_atomically(self._interrupted, f"{number} {deadline}")

    def interruption(self) -> tuple[int, float] | None:
        """The signal the node got and the deadline; None where it got none."""
        try:
            number, deadline = self._interrupted.read_text().split()
        except FileNotFoundError:
            return None
        return int(number), float(deadline)

    def end_with(self, exit_code: int) -> None:
        """Tell the node what it is to end with. A process that is started again ends with that at once."""
        write_text_atomically(self._exit_code, str(exit_code))

    def exit_code(self) -> int | None:
        """What a process has said that the node is to end with."""
        try:
            return int(self._exit_code.read_text())
        except FileNotFoundError:
            return None


class Interruption:
    """Whether this process was asked to end, and by when it must have.

    `leave` is called with the signal's number, in another thread, when the time is over; at once as long as there is
    nothing to save. It must not return.
    """

    def __init__(self, leave: Leave | None = None) -> None:
        self.signal = 0
        """The signal's number; 0 as long as nobody has asked."""

        self._leave = leave
        self._lock = threading.Lock()
        self._has_progress = False

    def ask(self, number: int, deadline: float) -> None:
        """End because of signal `number`, by `deadline`, a reading of `time.monotonic`. The first to ask counts."""
        with self._lock:
            if self.signal:
                return
            self.signal = number
            if self._leave is None:
                return
            seconds = max(0.0, deadline - time.monotonic()) if self._has_progress else 0.0
            timer = threading.Timer(seconds, self._leave, [number])
            timer.daemon = True
            timer.start()

    def begin(self) -> None:
        """From now on there is something to save: an end waits for the next step and its checkpoint."""
        with self._lock:
            self._has_progress = True


@contextlib.contextmanager
def hear_signals(on_signal: OnSignal) -> Iterator[None]:
    """Call `on_signal` with the number of each SIGTERM and SIGUSR1, in a thread. In the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hearing, telling = os.pipe()
    os.set_blocking(telling, False)
    wakeup_before = signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    handlers_before = {number: signal.signal(number, _heard) for number in SIGNALS}
    thread = threading.Thread(target=_listen, args=(hearing, on_signal), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(telling)
        thread.join()
        os.close(hearing)


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Python has written the number into the pipe already: without a handler it would not."""


def _listen(hearing: int, on_signal: OnSignal) -> None:
    while numbers := os.read(hearing, 64):
        for number in numbers:
            if number in SIGNALS:
                on_signal(number)


def _forget() -> None:
    """A forked child (a library's worker) that is told to end must not tell us so through the pipe it has inherited."""
    for number in SIGNALS:
        if signal.getsignal(number) is _heard:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def interruptible(leave: Leave) -> Iterator[Interruption]:
    """The interruption of a process that trains: by a signal of its own, or by its node's word."""
    interruption, node, seconds = Interruption(leave), NodeDirectory.of_this_process(), grace_seconds(os.environ)
    over = threading.Event()
    if node is not None:
        threading.Thread(target=_ask_node, args=(node, interruption, over), name="node", daemon=True).start()

    def on_signal(number: int) -> None:
        deadline = time.monotonic() + seconds
        if node is not None and number == signal.SIGTERM:
            # Torch's agent ends the others so when one of them has died: then there is nobody to save anything with.
            threading.Thread(target=_end_without_word, args=(interruption, over), daemon=True).start()
        else:
            interruption.ask(number, deadline)

    try:
        with hear_signals(on_signal):
            yield interruption
    finally:
        over.set()


def _ask_node(node: NodeDirectory, interruption: Interruption, over: threading.Event) -> None:
    while True:
        said = node.interruption()
        if said is not None:
            interruption.ask(*said)
            return
        if over.wait(_POLL_SECONDS):
            return


def _end_without_word(interruption: Interruption, over: threading.Event) -> None:
    """End as SIGTERM would have ended us, unless it was our node that was told to end: it says so by its file."""
    if not over.wait(_SECONDS_FOR_THE_NODES_WORD) and not interruption.signal:
        end_process(128 + signal.SIGTERM)


def end_process(exit_code: int) -> None:
    """End at once, whatever other threads are at; what is half-written stays half-written."""
    os._exit(exit_code)


def signal_name(number: int) -> str:
    """`SIGTERM` for 15."""
    return signal.Signals(number).name
