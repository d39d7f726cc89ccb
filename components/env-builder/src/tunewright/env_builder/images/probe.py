"""Runs inside an image, with its own Python and nothing of ours: looks at what is there, prints it as one document.

probe.py '{"import": true, "models": true}'
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import Any

LOCK = pathlib.Path("/app/requirements.lock")
MODELS = pathlib.Path("/models")
NO_MODULE_OF_ITS_OWN = frozenset({"tests", "test", "docs", "examples", "benchmarks", "scripts"})
"""Top-level folders that some packages leave in site-packages by mistake."""


def main(wanted: dict[str, bool]) -> dict[str, Any]:
    """Everything that is asked for."""
    document: dict[str, Any] = {
        "user": {"uid": os.getuid(), "gid": os.getgid()},
        "network": network(),
        "python": sys.version.split()[0],
        "variables": dict(os.environ),
        "lock": LOCK.read_text() if LOCK.is_file() else None,
        "packages": packages(),
    }
    if wanted.get("import"):
        document["failed_imports"] = dict(failed_imports())
    document["gpu"] = gpu()
    if wanted.get("models"):
        document["models"] = [model(name, revision, str(path)) for name, revision, path in found_models()]
    return document


def network() -> str:
    """`off`, or what could be reached: nothing is sent."""
    try:
        interfaces = sorted(name for _, name in socket.if_nameindex() if name != "lo")
    except OSError:
        interfaces = []
    return ", ".join(interfaces) or "off"


def packages() -> dict[str, str]:
    """Every installed distribution, under its normal name, and its version."""
    found = importlib.metadata.distributions()
    return {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version for one in found}


def failed_imports() -> Iterator[tuple[str, str]]:
    """Each top-level module that cannot be imported, and why."""
    # GitPython, which MLflow brings, looks for a `git` when it is imported: an image without one is whole.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for module in sorted(importlib.metadata.packages_distributions()):
        if not module.isidentifier() or module.startswith("_") or module in NO_MODULE_OF_ITS_OWN:
            continue
        try:
            importlib.import_module(module)
        except BaseException as error:  # a module may do anything when it is imported, exit included
            yield module, f"{type(error).__name__}: {error}"[:300]


def gpu() -> dict[str, Any]:
    """What torch sees of GPUs, and why it sees none."""
    try:
        torch = importlib.import_module("torch")  # by name: this file is checked where there is none
    except ImportError:
        return {"seen": 0, "why": "torch is not in this image"}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return {"seen": len(names), "names": names, "cuda": torch.version.cuda}
    if torch.version.cuda is None:
        return {"seen": 0, "why": f"torch {torch.__version__} is built for the CPU"}
    devices = list(pathlib.Path("/dev").glob("nvidia[0-9]*"))
    why = "the driver does not answer" if devices else "the container was given no GPU (no /dev/nvidia*)"
    return {"seen": 0, "why": why, "cuda": torch.version.cuda}


def found_models() -> Iterator[tuple[str, str | None, pathlib.Path]]:
    """Each model in the image: hub id and commit, or the name of a plain directory."""
    for folder in sorted(MODELS.glob("hub/models--*/snapshots/*")):
        yield folder.parent.parent.name.removeprefix("models--").replace("--", "/"), folder.name, folder
    for folder in sorted(path for path in MODELS.glob("*") if (path / "config.json").is_file()):
        yield folder.name, None, folder


def model(name: str, revision: str | None, path: str) -> dict[str, Any]:
    """Load a model as a user would and compute one step with it."""
    answer: dict[str, Any] = {"name": name, "revision": revision}
    try:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
        where = (
            {"pretrained_model_name_or_path": name, "revision": revision}
            if revision
            else {"pretrained_model_name_or_path": path}
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(**where)
        ids_1t = torch.tensor([tokenizer("one step")["input_ids"]])
        with torch.no_grad():
            logits_1tv = loaded(ids_1t).logits
        answer["parameters"] = sum(one.numel() for one in loaded.parameters())
        answer["loads"] = bool(torch.isfinite(logits_1tv).all())
        answer["why"] = "" if answer["loads"] else "its logits are not finite"
    except Exception as error:
        answer["loads"] = False
        answer["why"] = traceback.format_exception_only(error)[-1].strip()[:500]
    return answer


if __name__ == "__main__":
    # Libraries print when they are imported; what we say goes where they cannot.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(main(json.loads(sys.argv[1])), out)
    out.flush()
    os._exit(0)  # some of what was imported would wait for threads of its own
