"""Which files are taken: safetensors and what describes them, unless more is allowed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tunewright.contracts.errors import IntegrityError, PreflightFailed
from tunewright.env_builder.models.manifest import LeftOut
from tunewright.env_builder.models.selection import (
    REASONS,
    Permissions,
    has_weights,
    reason_of,
    refuse_without_weights,
    select_files,
)


@dataclass(frozen=True)
class File:
    name: str
    size_bytes: int = 1


def select(*names: str, **allowed: bool) -> tuple[list[str], dict[str, str]]:
    taken, left_out = select_files([File(name) for name in names], Permissions(**allowed))
    return [file.name for file in taken], {one.file: one.reason for one in left_out}


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "vocab.txt",
        "chat_template.jinja", "additional_chat_templates/rag.jinja", "model.safetensors", "LICENSE", "LICENSE.txt",
        "USE_POLICY.md", "model.safetensors.index.json", "adapter_model.safetensors", "qwen.tiktoken", "README.md",
    ],
)  # fmt: skip
def test_what_a_model_is_loaded_from_is_taken(name: str) -> None:
    assert select(name) == ([name], {})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "unsafe-weights"), ("pytorch_model.bin.index.json", "unsafe-weights"),
        ("original/consolidated.00.pth", "unsafe-weights"), ("model.ckpt", "unsafe-weights"),
        ("PYTORCH_MODEL.BIN", "unsafe-weights"), ("training_args.bin", "unsafe-weights"), ("x.pkl", "unsafe-weights"),
        ("tf_model.h5", "other-framework"), ("flax_model.msgpack", "other-framework"),
        ("tf_model.h5.index.json", "other-framework"), ("onnx/model.onnx", "other-framework"),
        ("model.gguf", "other-framework"), ("modeling.py", "code"), ("deep/er/tokenization.py", "code"),
        (".gitattributes", "not-needed"), ("logo.png", "not-needed"), ("run.sh", "not-needed"),
    ],
)  # fmt: skip
def test_what_is_left_out_carries_its_reason(name: str, reason: str) -> None:
    assert select(name) == ([], {name: reason})
    assert reason in REASONS


def test_permissions_take_what_they_name_and_nothing_else() -> None:
    names = ("a.bin", "a.h5", "a.py", "model.safetensors")
    assert select(*names, unsafe_weights=True)[0] == ["a.bin", "model.safetensors"]
    assert select(*names, code=True)[0] == ["a.py", "model.safetensors"]
    assert select(*names, code=True, unsafe_weights=True)[1] == {"a.h5": "other-framework"}


def test_the_same_weights_in_another_layout_are_left_out_and_taken_where_they_are_the_only_ones() -> None:
    both = ("consolidated.safetensors", "model.safetensors.index.json", "model-00001-of-00001.safetensors")
    assert select(*both)[1] == {"consolidated.safetensors": "duplicate-weights"}
    assert select("consolidated.safetensors") == (["consolidated.safetensors"], {})


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/x.json", "a/../../b.json", "a\\b.json", "a//b.json", "./a.json"]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="would not stay in its directory"):
        select(name)


def refuse(taken: list[str], left_out: dict[str, str]) -> None:
    outside = [LeftOut(file=name, bytes=1, reason=reason) for name, reason in left_out.items()]
    refuse_without_weights("makers/small", [File(name) for name in taken], outside)


def test_a_model_with_nothing_but_pickles_is_refused_with_the_flag_that_takes_them() -> None:
    with pytest.raises(PreflightFailed) as caught:
        refuse(*select("config.json", "pytorch_model.bin"))
    assert "only pytorch_model.bin" in caught.value.message
    assert "--allow-unsafe-weights" in caught.value.hint
    assert caught.value.report is not None
    assert [finding.code for finding in caught.value.report.findings] == ["model-no-safetensors"]


def test_a_model_of_another_framework_is_refused_without_a_flag_that_would_not_help() -> None:
    with pytest.raises(PreflightFailed) as caught:
        refuse(*select("config.json", "model.gguf"))
    assert "--allow" not in str(caught.value)


def test_a_tokenizer_alone_is_no_model_without_weights() -> None:
    refuse(*select("tokenizer.json", "training_args.bin"))
    refuse(*select("config.json", "pytorch_model.bin", unsafe_weights=True))
    refuse(*select("config.json", "pytorch_model.bin", "model.safetensors"))
    assert not has_weights(["tokenizer.json", "training_args.bin"])


def test_a_file_already_there_is_judged_by_its_name() -> None:
    assert [reason_of(name) for name in ("a.bin", "a.py", "a.safetensors")] == ["unsafe-weights", "code", None]
