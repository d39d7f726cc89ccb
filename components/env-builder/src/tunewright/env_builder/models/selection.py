"""Which files of a model are taken, and which are left out for which reason: safetensors unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from tunewright.contracts.errors import IntegrityError, PreflightFailed
from tunewright.contracts.preflight import Finding, PreflightReport
from tunewright.env_builder.models.manifest import LeftOut

SAFETENSORS_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"

UNSAFE_WEIGHTS = "unsafe-weights"
OTHER_FRAMEWORK = "other-framework"
CODE = "code"
DUPLICATE_WEIGHTS = "duplicate-weights"
NOT_NEEDED = "not-needed"

REASONS = {
    UNSAFE_WEIGHTS: "a pickle: loading it runs whatever code it holds; --allow-unsafe-weights takes it",
    OTHER_FRAMEWORK: "weights in a format of another framework, which transformers does not load from",
    CODE: "Python code, which `trust_remote_code` would run; --allow-code takes it",
    DUPLICATE_WEIGHTS: "the same weights once more, in the layout of another loader",
    NOT_NEEDED: "loading the model does not need it",
}
"""Why a file was left out, by the code that stands in the manifest."""

_UNSAFE_SUFFIXES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_OTHER_SUFFIXES = (
    ".engine", ".gguf", ".ggml", ".h5", ".keras", ".mlmodel", ".msgpack", ".nemo", ".npz", ".onnx", ".onnx_data",
    ".ot", ".pb", ".pdparams", ".tflite",
)  # fmt: skip
_CODE_SUFFIXES = (".py",)
# Configuration, tokenizers, chat templates, and what must travel with a model: its licence and its card.
_KEPT_SUFFIXES = (".jinja", ".json", ".md", ".model", ".spm", ".tiktoken", ".txt", ".vocab")
_KEPT_NAMES = ("copying", "licence", "license", "notice", "use_policy")
# What trainers leave beside a model; a repository that has only these has no weights at all.
_NO_MODEL = ("optimizer", "rng_state", "scaler", "scheduler", "training_args")


class NamedFile(Protocol):
    """A file of a model, wherever it is."""

    @property
    def name(self) -> str:
        """Path relative to the model, with `/`."""

    @property
    def size_bytes(self) -> int:
        """Its size."""


File = TypeVar("File", bound=NamedFile)


@dataclass(frozen=True)
class Permissions:
    """What the user allowed beyond safetensors."""

    unsafe_weights: bool = False
    """Weights in pickles."""

    code: bool = False
    """The model's own Python code."""

    def cover(self, reason: str) -> bool:
        """Whether a file that was left out for `reason` is allowed."""
        return (reason == UNSAFE_WEIGHTS and self.unsafe_weights) or (reason == CODE and self.code)


def select_files(files: Iterable[File], permissions: Permissions) -> tuple[tuple[File, ...], tuple[LeftOut, ...]]:
    """The files that are taken, by name, and those that are left out.

    Raises IntegrityError for a name that would lead out of the model's directory.
    """
    ordered = sorted(files, key=lambda file: file.name)
    names = {file.name for file in ordered}
    taken, left_out = [], []
    for file in ordered:
        _check_name(file.name)
        reason = reason_to_leave_out(file.name, names)
        if reason is None or permissions.cover(reason):
            taken.append(file)
        else:
            left_out.append(LeftOut(file=file.name, bytes=file.size_bytes, reason=reason))
    return tuple(taken), tuple(left_out)


def reason_to_leave_out(name: str, names: Set[str]) -> str | None:
    """The code of the reason against the file `name` of a model with the files `names`; None where there is none."""
    path = PurePosixPath(name.lower())
    # The index of weights goes where the weights go.
    subject = PurePosixPath(path.name.removesuffix(".index.json")) if path.name.endswith(".index.json") else path
    if subject.suffix in _UNSAFE_SUFFIXES:
        return UNSAFE_WEIGHTS
    if subject.suffix in _OTHER_SUFFIXES:
        return OTHER_FRAMEWORK
    if path.suffix in _CODE_SUFFIXES:
        return CODE
    if subject.suffix == SAFETENSORS_SUFFIX:
        return DUPLICATE_WEIGHTS if _is_consolidated(name, names) else None
    kept = path.suffix in _KEPT_SUFFIXES or path.name.split(".")[0] in _KEPT_NAMES
    return None if kept else NOT_NEEDED


def reason_of(name: str) -> str | None:
    """The code of the reason against a file by its name alone."""
    return reason_to_leave_out(name, frozenset())


def _is_consolidated(name: str, names: Set[str]) -> bool:
    """Mistral's own layout beside transformers', of the same weights."""
    own = {"model.safetensors", "model.safetensors.index.json"}
    return PurePosixPath(name).name.startswith("consolidated") and not own.isdisjoint(names)


def has_weights(names: Iterable[str]) -> bool:
    """Whether there are weights among `names`."""
    return any(name.endswith((SAFETENSORS_SUFFIX, *_UNSAFE_SUFFIXES)) and _is_of_model(name) for name in names)


def refuse_without_weights(what: str, taken: Iterable[NamedFile], left_out: Iterable[LeftOut]) -> None:
    """Raise PreflightFailed where all weights of the model are among what is left out."""
    weights = [one for one in left_out if one.reason in (UNSAFE_WEIGHTS, OTHER_FRAMEWORK) and _is_of_model(one.file)]
    if not weights or has_weights(file.name for file in taken):
        return
    shown = ", ".join(one.file for one in weights[:3]) + (", ..." if len(weights) > 3 else "")
    unsafe = any(one.reason == UNSAFE_WEIGHTS for one in weights)
    message = (
        f"{what} has no weights in safetensors, only {shown}: "
        + (REASONS[UNSAFE_WEIGHTS if unsafe else OTHER_FRAMEWORK].partition(";")[0])
    )
    hint = "look for a later commit with safetensors, often a pull request of the hub's conversion bot"
    if unsafe:
        hint += "; or, where you trust its author, --allow-unsafe-weights"
    raise refusal("model-no-safetensors", message, hint)


def refusal(code: str, message: str, hint: str) -> PreflightFailed:
    """What is refused before anything is fetched or written."""
    report = PreflightReport(findings=(Finding(code=code, message=message, hint=hint),))
    return PreflightFailed(f"{message} [{code}]", hint, report)


def _is_of_model(name: str) -> bool:
    return not PurePosixPath(name).name.startswith(_NO_MODEL)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or str(path) != name or name == "."
    if bad:
        raise IntegrityError(f"the model has a file named {name!r}, which would not stay in its directory")
