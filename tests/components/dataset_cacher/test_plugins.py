"""Formats and templates come by the same door, ours and a stranger's."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.dataset_cacher.published_formats import FORMATS
from components.dataset_cacher.workbench import Workbench
from tunewright.contracts.errors import BrokenPlugin
from tunewright.contracts.plugins import PluginHost

STRANGER = """
from tunewright.contracts.dataset_plugins import ChatTemplate, DatasetFormat
from tunewright.contracts.hookspecs import hookimpl

@hookimpl
def tunewright_register_dataset_formats(register):
    entry = "stranger_of_tests:read"
    register.add(DatasetFormat(name="pair", summary="two texts", entry=entry, version=VERSION, api=1))

@hookimpl
def tunewright_register_chat_templates(register):
    source = "{% for m in messages %}({{ m.content }}){% endfor %}{{ eos_token }}"
    register.add(ChatTemplate(name="bare", source=source, api=1))

def read(row):
    return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]
"""


def install(directory: Path, version: int) -> None:
    (directory / "stranger_of_tests.py").write_text(f"VERSION = {version}\n{STRANGER}")
    metadata = directory / "stranger_of_tests-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-of-tests\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tunewright]\nstranger = stranger_of_tests\n")


def test_our_formats_and_templates_are_registered_by_hook() -> None:
    host = PluginHost.discover()
    names = ("alpaca", "messages", "preference", "prompt_completion", "question_answer", "sharegpt")
    assert host.dataset_formats.names() == names
    assert host.chat_templates.names() == tuple(sorted(FORMATS))
    assert "tunewright-dataset-cacher" in host.dataset_formats.owner_of("messages")


def test_a_strangers_format_and_template_work_and_its_failure_carries_its_name(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, version=3)
    monkeypatch.syspath_prepend(str(tmp_path))
    bench.write("pairs.jsonl", [{"q": "why?", "a": "so."}])
    provided = bench.provide({"source": "pairs.jsonl", "format": "pair"}, template="bare")
    assert bench.trained(provided) == ["so."]
    assert provided.key["sources"][0]["format"] == {"name": "pair", "version": 3}
    bench.write("other.jsonl", [{"q": "why?"}])
    with pytest.raises(BrokenPlugin, match=r"`pair` of .*stranger-of-tests.*KeyError: 'a'"):
        bench.provide({"source": "other.jsonl", "format": "pair"}, template="bare")
