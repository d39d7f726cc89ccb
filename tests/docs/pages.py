"""The pages of the repository, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def find_root() -> Path:
    """The repository: where Pants starts tests, else the folder above this file that has docs/."""
    candidates = (Path.cwd(), *Path(__file__).resolve().parents)
    return next(path for path in candidates if (path / "docs" / "plugins.md").is_file())


ROOT = find_root()
PLUGINS_PAGE = ROOT / "docs" / "plugins.md"


def pages() -> list[Path]:
    """README.md, everything below docs/, and the README of each component, plugin, trainer and of the examples."""
    readmes = [path for folder in ("components", "plugins", "trainers") for path in ROOT.glob(f"{folder}/*/README.md")]
    return sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"), *readmes])


@dataclass(frozen=True)
class Code:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def code_of(page: Path) -> list[Code]:
    """The fenced blocks of `page`."""
    text = page.read_text()
    return [
        Code(page, text.count("\n", 0, found.start()) + 1, found["language"], found["file"] or "", found["text"])
        for found in _FENCE.finditer(text)
    ]


def without_code(text: str) -> str:
    """`text` without fenced blocks, indented blocks and inline code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)
