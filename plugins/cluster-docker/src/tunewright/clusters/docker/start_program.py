"""What a container starts with: a fixed program for `/bin/sh` that becomes the job's command.

Docker keeps output and errors apart and in no order, and its log changes bytes that are no UTF-8. So the program sends
both to the log in the run's directory, which also needs nobody to copy it. `$0` is that log; the arguments are the
command's, and no shell looks at them. What the program itself says on Docker's error stream is why it could not start.
"""

from __future__ import annotations

_CHECK = r"""unset PWD OLDPWD SHLVL
case $1 in
*/*) test -f "$1" ;;
*) command -v "$1" >/dev/null ;;
esac || {
    printf 'there is no program `%s` in the image\n' "$1" >&2
    exit 127
}
"""

_READ_SECRETS = r"""while IFS= read -r TUNEWRIGHT_START_NAME && test "$TUNEWRIGHT_START_NAME" != .; do
    IFS= read -r TUNEWRIGHT_START_VALUE
    TUNEWRIGHT_START_VALUE=$(printf "${TUNEWRIGHT_START_VALUE}x")
    export "$TUNEWRIGHT_START_NAME=${TUNEWRIGHT_START_VALUE%x}"
done
test "$TUNEWRIGHT_START_NAME" = . || {
    echo 'its secrets did not arrive: the supervisor died in the middle' >&2
    exit 127
}
unset TUNEWRIGHT_START_NAME TUNEWRIGHT_START_VALUE
"""

_BECOME = r"""printf 'this job writes to %s\n' "$0"
exec "$@" </dev/null >>"$0" 2>&1
"""

PLAIN = _CHECK + _BECOME
WITH_SECRETS = _CHECK + _READ_SECRETS + _BECOME

RESERVED_NAMES = frozenset({"IFS", "LINENO", "OLDPWD", "OPTIND", "PPID", "PWD", "SHLVL", "_"})
"""Variables that a shell keeps for itself: nobody can be given one through it."""
