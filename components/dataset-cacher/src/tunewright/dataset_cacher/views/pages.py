"""Self-contained HTML pages: nothing is loaded from anywhere, all text is escaped, light or dark as one likes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from tunewright.contracts.errors import UsageError
from tunewright.contracts.files import write_text_atomically

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --back: #ffffff; --text: #1c2024; --faint: #6a737d; --line: #d8dee4; --shade: #eef1f4;
  --bar: #3b73b9; --good: #1a7f37; --good-back: #d2f4d9; --bad: #b35900; --special: #8250df; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --text: #e3e6e8; --faint: #949da6; --line: #363c42;
  --shade: #22272b; --bar: #6ea3e0; --good: #56d364; --good-back: #123d1f; --bad: #e5a05c; --special: #c297ff; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
code, .mono { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); } svg .bar { fill: var(--bar); }
svg .good { fill: var(--good); } svg .bad { fill: var(--bad); }
svg .rest { fill: var(--shade); } svg .axis { stroke: var(--line); }
svg .cut { stroke: var(--bad); stroke-dasharray: 4 3; }
{% block style %}{% endblock %}</style>
</head>
<body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</body>
</html>
"""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"frame": _FRAME}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda share: "-" if share is None else f"{share:.1%}"
    return environment


def render_page(template: str, **values: Any) -> str:
    """The page of a template that extends `frame`, which needs a `title`."""
    return _environment().from_string(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """Write a page for `--html`. Raises UsageError for a path that cannot be written."""
    if not path.parent.is_dir():
        raise UsageError(f"--html {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise UsageError(f"--html {path}: is a directory", "give the name of a file")
    write_text_atomically(path, page)
