"""Models made on the spot, a hub that hosts them, and a home that they are fetched into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from servers.forked_commands import forked_commands
from servers.model_hub import ModelHub

from tunewright.contracts import command_line
from tunewright.env_builder.models import command
from tunewright.env_builder.models.fetch import FetchedModel, ensure_model
from tunewright.env_builder.models.hub import HubClient
from tunewright.env_builder.models.layout import ModelPlace, hub_of
from tunewright.env_builder.models.pins import ModelPin
from tunewright.env_builder.models.retries import RetryPolicy
from tunewright.env_builder.models.selection import Permissions

MODEL_ID = "makers/small"

_IMPORTED = (
    "filelock",
    "fsspec",
    "httpx2",
    "rich.progress",
    "tqdm.auto",
    "tunewright.env_builder.models.fetch",
    "yaml",
)
"""What the commands import; not the hub's library, which reads its variables while it is imported."""

# Imported above, so that Pants gives it to the tests: what the env-builder's command line does with these commands.
_MAIN = f"""
import signal
# As in a terminal: a shell that starts the tests in the background has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from {command_line.__name__} import LazyGroup, run_command_line
module = {command.__name__!r}
lazy = {{
    "fetch-model": (f"{{module}}:fetch_model", ""),
    "list-models": (f"{{module}}:list_models_command", ""),
    "verify-model": (f"{{module}}:verify_model_command", ""),
}}
run_command_line(LazyGroup("env-builder", lazy_commands=lazy), "env-builder")
"""


def make_safetensors(tensors: Mapping[str, Sequence[int]], fill: int = 7) -> bytes:
    """A safetensors file, written after the format's description: float32 tensors of these shapes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        data += bytes((fill + index) % 256 for index in range(251)) * (size // 251) + bytes(size % 251)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4}).encode()
WEIGHTS = make_safetensors({"embed": (64, 256), "head": (256, 64)})

FILES: dict[str, bytes] = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "LICENSE": b"free\n",
    "README.md": b"# Small\n",
    "chat_template.jinja": b"{{ messages }}",
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "modeling_small.py": b"print('code of the model')\n",
    "onnx/model.onnx": b"onnx",
    "picture.png": b"png",
    "pytorch_model.bin": b"\x80\x02pickle",
    "tokenizer.json": b'{"version": "1.0"}',
}
"""A model as they lie on the hub: with safetensors, and with everything else."""

TAKEN = ["LICENSE", "README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
"""What of it is taken when nothing else is allowed."""


def make_sharded(num_shards: int = 3) -> dict[str, bytes]:
    """A model in several files, with its index."""
    shards = {
        f"model-{one:05}-of-{num_shards:05}.safetensors": {f"layer.{one}.weight": (16, 16)}
        for one in range(1, num_shards + 1)
    }
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()
    weights = {name: make_safetensors(tensors, fill=number) for number, (name, tensors) in enumerate(shards.items())}
    return {"config.json": CONFIG, "model.safetensors.index.json": index, **weights}


@dataclass
class Notes:
    """Collects what a fetch says."""

    lines: list[str] = field(default_factory=list)
    came_bytes: int = 0

    def start(self, what: str, total_bytes: int, there_bytes: int) -> None:
        self.total_bytes, self.there_bytes = total_bytes, there_bytes

    def advance(self, num_bytes: int) -> None:
        self.came_bytes += num_bytes

    def note(self, message: str) -> None:
        self.lines.append(message)

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass
class Workbench:
    """A hub and a home, and nothing of the user's own."""

    hub: ModelHub
    home: Path
    notes: Notes = field(default_factory=Notes)

    def client(self) -> HubClient:
        """A client that gives up quickly."""
        policy = RetryPolicy(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=0.05)
        return HubClient(endpoint=self.hub.address, retry=policy, timeout_seconds=5)

    def fetch(
        self, commit: str, unsafe_weights: bool = False, code: bool = False, model_id: str = MODEL_ID
    ) -> FetchedModel:
        """Fetch a model of the hub."""
        permissions = Permissions(unsafe_weights=unsafe_weights, code=code)
        return ensure_model(self.home, ModelPin(model_id, commit), permissions, self.notes, self.client)

    def place(self, commit: str, model_id: str = MODEL_ID) -> ModelPlace:
        """Where a model lies."""
        return ModelPlace(hub_of(self.home), model_id, commit)

    def content(self, commit: str, model_id: str = MODEL_ID) -> dict[str, bytes]:
        """The files of a model as a reader of its snapshot sees them."""
        return read_tree(self.place(commit, model_id).snapshot)

    def start(self, *arguments: str, stderr: int = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        """Start the command line as users do: Python anew."""
        return subprocess.Popen(
            [sys.executable, "-c", _MAIN, *arguments],
            cwd=self.home.parent, env=self.environment(**variables), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    def environment(self, **variables: str) -> dict[str, str]:
        """The variables of a command: the hub is ours."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        return {
            **kept,
            # Absolute: below Pants the path has relative entries, and this process starts elsewhere.
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TUNEWRIGHT_HOME": str(self.home),
            "HF_HOME": str(self.home.parent / "hf"),
            "HF_ENDPOINT": self.hub.address,
            "NO_PROXY": "*",
            **variables,
        }

    def call(self, *arguments: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end in a process of its own, which is forked, checking its exit code."""
        program = self.home.parent / "main.py"
        program.write_text(_MAIN)
        commands, environment = forked_commands(_IMPORTED), self.environment(**variables)
        done = commands.run(str(program), arguments, self.home.parent, environment, timeout_seconds=50)
        assert done.returncode == expect, f"{arguments} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done


def read_tree(root: Path) -> dict[str, bytes]:
    """Every file below `root`, links followed, by its path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
