#!/usr/bin/env bash
# Makes the Pex PEX that [pex-cli] in pants.toml names, out of the pex wheel that pex.lock pins.
# The same bytes come out on any machine: files stored uncompressed, fixed times, modes of umask 022.
# usage: ensure-pex.sh [PYTHON [DIRECTORY]]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
version=$(sed -n 's/^pex==\([^ ]*\).*/\1/p' "$here/pex.lock")
out=${2:-$root/.pants.bootstrap.d}/pex-$version.pex
[ -f "$out" ] && exit 0
python=${1:-python3.11}
umask 022
mkdir -p "$(dirname "$out")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# pex has one wheel for Pythons up to 3.11, and one for later: always take the first.
"$python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --require-hashes -r "$here/pex.lock" -d "$tmp/wheel"
"$python" -m zipfile -e "$tmp"/wheel/pex-*.whl "$tmp/lib"
env -u XDG_CACHE_HOME PEX_ROOT="$tmp/root" TMPDIR="$tmp" PYTHONPATH="$tmp/lib" "$python" -m pex --no-pypi --disable-cache \
    --runtime-pex-root '~/.cache/pex' --no-strip-pex-env --include-tools --no-compile --no-use-system-time \
    "pex @ file://$(ls "$tmp"/wheel/pex-*.whl)" -c pex -o "$tmp/pex.pex" \
    --no-compress --python-shebang '/usr/bin/env python3' --no-emit-warnings >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; exit 1; }
mv "$tmp/pex.pex" "$out.$$" && mv "$out.$$" "$out"
