"""A project with a small tokenizer, for the tests of the dataset-cacher: write sources, prepare, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.forked_commands import forked_commands
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tunewright.contracts.datasets import DatasetManifest, DatasetRequest, read_manifest
from tunewright.contracts.experiment import DatasetSource, DatasetSpec
from tunewright.dataset_cacher.exchange.exporting import labels_of
from tunewright.dataset_cacher.preparation.shards import read_shards
from tunewright.dataset_cacher.provide import Provided, provide_dataset

_COMMAND_LINE = "tunewright.dataset_cacher.cli"

IMPORTED = (
    "components.dataset_cacher.workbench",
    "dill",
    "fsspec",
    "multiprocess",
    "pandas",
    "pyarrow.dataset",
    "pytest",
    "tunewright.dataset_cacher.commands.caches",
    "tunewright.dataset_cacher.commands.explain",
    "tunewright.dataset_cacher.commands.export",
    "tunewright.dataset_cacher.commands.gc",
    "tunewright.dataset_cacher.commands.import_cache",
    "tunewright.dataset_cacher.commands.prepare",
    "tunewright.dataset_cacher.commands.show",
    "tunewright.dataset_cacher.commands.stats",
    "tunewright.dataset_cacher.preparation.preparing",
    "tunewright.dataset_cacher.reading.hub",
    "tunewright.dataset_cacher.tokens.engines",
    "xxhash",
)
"""What commands import, and what `datasets` does. Hugging Face's own packages read variables then: not those."""

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")

OWN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
)


def make_tokenizer(directory: Path) -> Path:
    """A byte-level BPE of a few hundred tokens, in a model directory without weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Without a split into words, merges over spaces and line breaks appear: borders of contents inside a token.
    texts = [
        "the answer is\n\n",
        "<|user|>\nwhat is the\n<|assistant|>\nit is the ",
        ":  yes\n\nUser: no\n\nAssistant: é 漢字",
    ] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": OWN_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text("{}")
    return directory


def conversation(question: str, answer: str) -> dict[str, Any]:
    """A row of the format `messages`."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@dataclass(frozen=True)
class Workbench:
    """A project directory with a model directory, and a cache root beside it."""

    project: Path
    model: Path
    cache_root: Path

    def write(self, name: str, rows: Iterable[Any]) -> Path:
        """A jsonl source."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def request(
        self,
        *mix: Mapping[str, Any],
        template: str = "tulu",
        max_length_tokens: int = 256,
        shuffle: bool = False,
        max_dropped_fraction: float = 0.9,
        seed: int = 17,
        plan_only: bool = False,
    ) -> DatasetRequest:
        """What the launcher would ask for."""
        sources = tuple(DatasetSource.model_validate(source) for source in mix)
        return DatasetRequest(
            dataset=DatasetSpec(
                max_length_tokens=max_length_tokens,
                shuffle=shuffle,
                max_dropped_fraction=max_dropped_fraction,
                mix=sources,
            ),
            tokenizer=str(self.model),
            chat_template=template,
            seed=seed,
            project_root=str(self.project),
            plan_only=plan_only,
        )

    def provide(self, *mix: Mapping[str, Any], **options: Any) -> Provided:
        """Prepare a mix, or find it."""
        return provide_dataset(self.request(*mix, **options), self.cache_root)

    def digest(self, *mix: Mapping[str, Any], **options: Any) -> str:
        """The digest alone."""
        return self.provide(*mix, plan_only=True, **options).dataset.digest

    def manifest(self, provided: Provided) -> DatasetManifest:
        """What vouches for a cache."""
        return read_manifest(Path(provided.dataset.path))

    def rows(self, provided: Provided) -> list[tuple[list[int], list[int]]]:
        """`input_ids` and `labels` of each row."""
        cached = read_shards(Path(provided.dataset.path), self.manifest(provided))
        return [(row.ids.tolist(), labels_of(row)) for row in cached]

    def origins(self, provided: Provided) -> list[tuple[int, int]]:
        """The source of each row and its index there."""
        return [(row.source, row.row) for row in read_shards(Path(provided.dataset.path), self.manifest(provided))]

    def trained(self, provided: Provided) -> list[str]:
        """What is trained in each row, as text."""
        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        return [
            tokenizer.decode([label for label in labels if label >= 0], skip_special_tokens=False)
            for _, labels in self.rows(provided)
        ]

    def experiment(self, mix: Sequence[str], name: str = "experiment.toml") -> Path:
        """An experiment file; `mix` has the lines of each source."""
        lines = ["schema = 1", 'name = "test"', "[model]", f'name_or_path = "{self.model}"', 'chat_template = "tulu"',
                 "[dataset]", "max_length_tokens = 128"]  # fmt: skip
        path = self.project / name
        path.write_text("\n".join([*lines, *(f"[[dataset.mix]]\n{source}" for source in mix)]) + "\n")
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line as users do: Python anew."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
                       "TUNEWRIGHT_HOME": str(self.cache_root.parent)}  # fmt: skip
        command = [sys.executable, "-m", _COMMAND_LINE, *arguments]
        return subprocess.Popen(
            command, cwd=self.project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line in a process of its own, which is forked, to its end and check its exit code."""
        environment = {**os.environ, "TUNEWRIGHT_HOME": str(self.cache_root.parent)}
        done = forked_commands(IMPORTED).run(_COMMAND_LINE, arguments, self.project, environment, timeout_seconds=50)
        return _checked(done, expect)

    def run_anew(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """The same with Python started anew: with nothing imported but what the command itself imports."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=50)
        return _checked(subprocess.CompletedProcess(process.args, process.returncode, out, err), expect)


def _checked(done: subprocess.CompletedProcess[str], expect: int) -> subprocess.CompletedProcess[str]:
    assert done.returncode == expect, f"{done.args} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def bytes_below(directory: Path) -> dict[str, bytes]:
    """The content of every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def visible_below(directory: Path) -> list[Path]:
    """Files that are no lock and no memory of digests."""
    return [path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".")]
