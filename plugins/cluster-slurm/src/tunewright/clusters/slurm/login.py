"""The machine where Slurm's programs are: this one, or a login node that is reached by SSH."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from tunewright.clusters.slurm.programs import login_program
from tunewright.contracts.errors import Unavailable

_BOOT = "import json,sys; R=json.load(sys.stdin); S={}; exec(R[0],S); json.dump(S[R[1]](R[2]),sys.stdout)"
_SSH_SECONDS = 180
_SSH_FAILED = 255


@dataclass(frozen=True)
class LoginNode:
    """Answers requests of `programs.login_program`."""

    ssh: tuple[str, ...] = ()
    """The beginning of an `ssh` command, up to the host. Empty: this machine."""

    python: str = "python3"
    """The Python to start there."""

    def ask(self, verb: str, **request: Any) -> Mapping[str, Any]:
        """The answer. Raises Unavailable, in words, where there is none."""
        document = {"verb": verb, **request}
        answer = _ask_over_ssh(self.ssh, self.python, document) if self.ssh else login_program.answer(document)
        if "failed" in answer:
            where = f" on {self.ssh[-1]}" if self.ssh else ""
            hint = "" if self.ssh else "start the launcher on a login node, or set cluster.options.ssh_host"
            raise Unavailable(f"Slurm cannot be asked{where}: {answer['failed']}", hint)
        return answer


def _ask_over_ssh(ssh: Sequence[str], python: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """One connection for one request: the program and the request go through its standard input."""
    source = resources.files("tunewright.clusters.slurm.programs").joinpath("login_program.py").read_text()
    # The other side's shell reads the last argument; nothing in it is the user's but the name of a program.
    command = [*ssh, shlex.join([python, "-I", "-S", "-X", "utf8", "-c", _BOOT])]
    text = json.dumps([source, "answer", request])
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, encoding="utf-8", timeout=_SSH_SECONDS, check=False
        )
    except FileNotFoundError:
        raise Unavailable("there is no program `ssh` on this machine", "apt-get install openssh-client") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{ssh[-1]} does not answer in {_SSH_SECONDS} seconds (ssh)") from None
    if done.returncode != 0:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        hint = "try `ssh HOST true` by hand: no password may be asked for" if done.returncode == _SSH_FAILED else ""
        raise Unavailable(f"ssh {ssh[-1]}: {said}", hint)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
