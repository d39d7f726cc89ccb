"""What no cluster can do for a job, told by all of them in the same words: arguments, variables, images. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tunewright.contracts.errors import Problem
from tunewright.contracts.jobs import JobSpec

TOLD_VARIABLES = (
    "TUNEWRIGHT_ATTEMPT", "TUNEWRIGHT_NODE_RANK", "TUNEWRIGHT_MASTER_ADDRESS", "TUNEWRIGHT_MASTER_PORT",
)  # fmt: skip
"""What a cluster itself tells a job, see `JobSpec`."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def argument_problems(job: JobSpec) -> Iterator[Problem]:
    """What no process can be given as an argument."""
    for number, argument in enumerate(job.command):
        if "\0" in argument:
            yield Problem(f"command[{number}]", f"an argument cannot hold a NUL character, got {argument!r}")


def variable_problems(
    job: JobSpec, holder: str, is_own: Callable[[str], bool] | None = None, only_plain_names: bool = True
) -> Iterator[Problem]:
    """What is wrong with plain variables and with those of secrets.

    `holder`: what cannot have them, in the cluster's words (`process`, `pod`). `is_own`: whether the cluster itself
    sets a variable of that name. `only_plain_names`: of letters, digits and `_`; else whatever a process can have.
    """
    allowed = "letters, digits and `_`, no digit first" if only_plain_names else "no `=` in it"
    for section, variables in (("cluster.environment", job.variables), ("cluster.secrets", job.secrets)):
        for name, value in variables.items():
            if not _is_name(name, only_plain_names):
                yield Problem(section, f"no {holder} can have a variable called {name!r}", f"a name has {allowed}")
            elif is_own is not None and is_own(name):
                yield Problem(f"{section}.{name}", "the cluster itself says this to the job", "choose another name")
            elif "\0" in value:
                yield Problem(f"{section}.{name}", "a value cannot hold a NUL character")
    for name in sorted(job.variables.keys() & job.secrets.keys()):
        yield Problem(f"cluster.secrets.{name}", "is a plain variable too", f"remove {name} from cluster.environment")


def _is_name(name: str, only_plain_names: bool) -> bool:
    if only_plain_names:
        return _PLAIN_NAME.fullmatch(name) is not None
    return bool(name) and "=" not in name and "\0" not in name


def image_problems(job: JobSpec, cluster: str, image: str | None) -> Iterator[Problem]:
    """What is wrong with the image, for a cluster that runs nothing else. `image`: its option of that name."""
    if job.environment is None:
        if image is None:
            hint = 'set environment.kind = "image", or this option where the job has no environment'
            yield Problem("cluster.options.image", f"cluster `{cluster}` runs images, and the job names none", hint)
    elif job.environment.kind != "image":
        message = f"cluster `{cluster}` runs images, got {job.environment.kind!r}"
        yield Problem("environment.kind", message, 'set environment.kind = "image"')
    elif image is not None:
        yield Problem("cluster.options.image", "the experiment's environment says the image", "remove this option")
