"""Who launches is found without asking the system's name service."""

from __future__ import annotations

import pytest

from tunewright.launcher.user import choose_name, user_name

PASSWD = "root:x:0:0:root:/root:/bin/bash\nbroken line\nada:x:1001:1001::/home/ada:/bin/sh\n"


def test_a_variable_comes_first_then_the_machines_list_then_the_number() -> None:
    assert choose_name({"USER": "grace"}, 1001, PASSWD) == "grace"
    assert choose_name({"LOGNAME": "", "USER": ""}, 1001, PASSWD) == "ada"
    assert choose_name({}, 4711, PASSWD) == "uid 4711"


def test_the_name_service_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def refuse(*_: object) -> None:
        raise AssertionError("a socket would be opened")

    monkeypatch.setattr(pwd, "getpwuid", refuse)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    assert user_name()
