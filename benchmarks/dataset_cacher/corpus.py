"""Make the corpus: conversations out of the standard library's own texts, and the tokenizer trained on them.

    python3.11 -m benchmarks.dataset_cacher.corpus --work DIRECTORY [--rows 20000]

Needs no network and one package, `tokenizers`. The same Python version and seed give the same bytes. The standard
library has some 30 MB of text, the corpus of 20,000 rows twice that: passages start anywhere, so that what is there
twice begins and ends differently each time. A corpus of more rows has the rows of a smaller one, then others.
"""

from __future__ import annotations

import argparse
import bisect
import importlib
import inspect
import itertools
import json
import platform
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 17
ROWS = 20_000

VOCABULARY_SIZE = 32_768
TRAINING_ROWS = 10_000
"""Rows the tokenizer is trained on: about the size of the standard library."""

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")

# As GPT-4 cuts words, in the spelling of Llama 3.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The `generation` marks are for those who ask transformers for the mask.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONVERSATIONS_FILE = "conversations.jsonl"
CORPUS_FILE = "corpus.json"
TOKENIZER_DIRECTORY = "tokenizer"

MEDIAN_CHARACTERS = 2_600
LOG_SIGMA = 0.85
"""Of the log-normal distribution of a conversation's characters; its mean is 1.44 times its median."""

SHORTEST_CHARACTERS, LONGEST_CHARACTERS = 120, 60_000

TURNS = {1: 45, 2: 30, 3: 15, 4: 10}
KINDS = {"explain": 32, "write": 35, "ask": 30, "translate": 3}
"""Of questions: in per cent."""

SYSTEM_SHARE = 0.3
SYSTEM_MESSAGES = (
    "You are a helpful assistant for Python programmers.",
    "You answer questions about Python's standard library with its documentation.",
    "Réponds dans la langue de la question, et en peu de mots.",
)
QUESTIONS = {
    "explain": ("What does this do?", "Explain this code, please.", "Is there anything wrong with this?"),
    "write": ("Show me how the standard library does this:", "Write code for this:", "Give an example of this."),
    "ask": ("What does the documentation say about it?", "Tell me more about this.", "How is this meant?"),
    "translate": ("Translate this.", "Was bedeutet das?", "これはどういう意味ですか。"),
}

# Tables of hexadecimal numbers, and grammar tables: nothing that anyone would talk about.
LEFT_OUT = ("encodings/", "lib2to3/tests/data/", "site-packages/", "pydoc_data/")

DOCSTRING = re.compile(r'(?:\A|(?<=:\n))[ \t]*[rR]?"""(.{40,}?)"""', re.DOTALL)
COMMENT = re.compile(r"(?:^[ \t]*#[^\n]*\n){3,}", re.MULTILINE)
COMMENT_SIGN = re.compile(r"^[ \t]*#+ ?", re.MULTILINE)
FOREIGN_LINE = re.compile(r"^(?=(?:.*[^\x00-\u02ff].*?){8}).+\n", re.MULTILINE)

Message = dict[str, str]


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies."""

    conversations: Path
    tokenizer: Path


class Passages:
    """A long text, and passages of it that start and end at line breaks."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._text = "\n".join(parts) + "\n"
        self._starts = [0, *(found.end() for found in re.finditer("\n", self._text))][:-1]

    def draw(self, source: random.Random, characters: int) -> str:
        """A passage of about so many characters, from anywhere; at least one line."""
        wanted = source.randrange(max(1, len(self._text) - characters))
        start = self._starts[bisect.bisect_right(self._starts, wanted) - 1]
        end = self._text.find("\n", start + characters)
        return self._text[start : end if end >= 0 else None].strip("\n") or "pass"


@dataclass(frozen=True)
class Library:
    """The texts of the standard library, by what they are."""

    code: Passages
    prose: Passages
    """Docstrings, comments, and the topics of `help()`."""

    foreign: Passages
    """Lines that are not in Latin letters: Chinese, Japanese, Korean, Greek, ..."""


def read_library() -> Library:
    """Read the standard library of this Python, its tests included where they are installed."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if not _is_left_out(path.relative_to(root)))
    sources = [path.read_text(encoding="utf-8", errors="ignore") for path in paths]
    topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    prose = [text for source in sources for text in _prose_of(source)]
    samples = [path.read_text(encoding="utf-8") for path in sorted(root.glob("test/cjkencodings/*-utf8.txt"))]
    foreign = "".join(line for text in (*samples, *sources) for line in FOREIGN_LINE.findall(text))
    return Library(
        code=Passages(sources),
        prose=Passages([*prose, *(topics[name] for name in sorted(topics))]),
        foreign=Passages([foreign or "Ελληνικά, 日本語, 中文, 한국어"]),
    )


def _is_left_out(path: Path) -> bool:
    return any(part in path.as_posix() for part in LEFT_OUT)


def _prose_of(source: str) -> Iterator[str]:
    for found in DOCSTRING.finditer(source):
        yield inspect.cleandoc(found[1])
    for found in COMMENT.finditer(source):
        yield COMMENT_SIGN.sub("", found[0]).strip()


def conversations(library: Library, rows: int, seed: int) -> Iterator[list[Message]]:
    """The conversations, one after the other. Each is decided by the seed and its own number."""
    for row in range(rows):
        yield _conversation(library, random.Random(f"{seed}:{row}"))


def _conversation(library: Library, source: random.Random) -> list[Message]:
    characters = MEDIAN_CHARACTERS * source.lognormvariate(0.0, LOG_SIGMA)
    characters = min(max(characters, SHORTEST_CHARACTERS), LONGEST_CHARACTERS)
    (turns,) = source.choices(tuple(TURNS), tuple(TURNS.values()))
    shares = [source.gammavariate(2.0, 1.0) for _ in range(turns)]
    messages: list[Message] = []
    if source.random() < SYSTEM_SHARE:
        messages.append({"role": "system", "content": source.choice(SYSTEM_MESSAGES)})
    for share in shares:
        messages += _turn(library, source, int(characters * share / sum(shares)))
    return messages


def _turn(library: Library, source: random.Random, characters: int) -> list[Message]:
    """A question and its answer, of so many characters together."""
    (kind,) = source.choices(tuple(KINDS), tuple(KINDS.values()))
    asked = library.code if kind == "explain" else library.foreign if kind == "translate" else library.prose
    told = library.code if kind == "write" else library.foreign if kind == "translate" else library.prose
    question_characters = int(characters * source.uniform(0.1, 0.4))
    passage = asked.draw(source, question_characters)
    if kind == "explain":
        passage = f"```python\n{passage}\n```"
    answer = told.draw(source, characters - question_characters)
    if kind == "write":
        answer = f"Like this:\n\n```python\n{answer}\n```"
    question = f"{source.choice(QUESTIONS[kind])}\n\n{passage}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def train_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE with a GPT-4-like split: any text can be encoded, and nothing is unknown."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs beside `tokenizer.json`. The class is the one that takes that file as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 20,
        "chat_template": CHAT_TEMPLATE,
    }


def model_config() -> dict[str, Any]:
    """The smallest Llama: TRL wants a model beside its data."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }


def make_tokenizer(directory: Path, library: Library, seed: int) -> None:
    """Train and write the tokenizer's directory, `tokenizer.json` last."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = conversations(library, TRAINING_ROWS, seed)
    tokenizer = train_tokenizer(message["content"] for messages in rows for message in messages)
    for name, document in (("config.json", model_config()), ("tokenizer_config.json", tokenizer_config())):
        (directory / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    temporary = directory / "tokenizer.json.tmp"
    tokenizer.save(str(temporary))
    temporary.rename(directory / "tokenizer.json")


def make_conversations(directory: Path, library: Library, rows: int, seed: int) -> None:
    """Write the conversations, and last what they are."""
    directory.mkdir(parents=True, exist_ok=True)
    characters = messages = 0
    with (directory / CONVERSATIONS_FILE).open("w", encoding="utf-8") as file:
        for number, conversation in enumerate(conversations(library, rows, seed)):
            characters += sum(len(message["content"]) for message in conversation)
            messages += len(conversation)
            row = {"id": f"row-{number:06d}", "messages": conversation}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    summary = {
        **_identity(rows, seed),
        "messages": messages,
        "characters": characters,
        "bytes": (directory / CONVERSATIONS_FILE).stat().st_size,
    }
    (directory / CORPUS_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _identity(rows: int, seed: int) -> dict[str, Any]:
    """What decides a corpus."""
    shape = [MEDIAN_CHARACTERS, LOG_SIGMA, TURNS, KINDS, CHAT_TEMPLATE, SPLIT_PATTERN]
    return {"rows": rows, "seed": seed, "python": platform.python_version(), "shape": json.loads(json.dumps(shape))}


def find_corpus(work: Path, rows: int = ROWS, seed: int = SEED) -> Corpus:
    """The corpus of so many rows below `work`, made where it is not there yet."""
    corpus = Corpus(work / f"corpus-{rows}" / CONVERSATIONS_FILE, work / TOKENIZER_DIRECTORY)
    written = _read_object(corpus.conversations.parent / CORPUS_FILE)
    has_rows = written.items() >= _identity(rows, seed).items()
    has_tokenizer = _read_object(corpus.tokenizer / CORPUS_FILE) == _identity(TRAINING_ROWS, seed)
    if has_rows and has_tokenizer:
        return corpus
    library = read_library()
    if not has_tokenizer:
        make_tokenizer(corpus.tokenizer, library, seed)
        identity = json.dumps(_identity(TRAINING_ROWS, seed))
        (corpus.tokenizer / CORPUS_FILE).write_text(identity, encoding="utf-8")
    if not has_rows:
        make_conversations(corpus.conversations.parent, library, rows, seed)
    return corpus


def _read_object(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_messages(path: Path, limit: int | None = None) -> Iterator[list[Message]]:
    """The conversations of a file, the first `limit` of them."""
    with path.open("rb") as lines:
        for line in itertools.islice(lines, limit):
            yield json.loads(line)["messages"]


def render(messages: Iterable[Message]) -> str:
    """What CHAT_TEMPLATE renders, without Jinja."""
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)


def main() -> None:
    """Make the corpus and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory to write to; what is there is used again")
    parser.add_argument("--rows", type=int, default=ROWS, help="conversations; %(default)s")
    parser.add_argument("--seed", type=int, default=SEED, help="decides everything; %(default)s")
    arguments = parser.parse_args()
    corpus = find_corpus(arguments.work, arguments.rows, arguments.seed)
    print((corpus.conversations.parent / CORPUS_FILE).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
