"""Who launches, for the record. Without the system's name service: asking it opens a socket, and `plan` opens none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME")
_PASSWD = Path("/etc/passwd")


def user_name() -> str:
    """The caller's name, or `uid 1234` where neither the variables nor the machine's own list have one."""
    try:
        passwd = _PASSWD.read_text(errors="replace")
    except OSError:
        passwd = ""
    return choose_name(os.environ, os.getuid(), passwd)


def choose_name(variables: Mapping[str, str], user_id: int, passwd: str) -> str:
    """The name by the variables that `getpass.getuser` takes, else by `passwd` (lines `name:password:id:...`)."""
    told = (variables[name] for name in _VARIABLES if variables.get(name))
    entries = (line.split(":") for line in passwd.splitlines())
    listed = (entry[0] for entry in entries if len(entry) > 2 and entry[2] == str(user_id))
    return next(told, None) or next(listed, None) or f"uid {user_id}"
