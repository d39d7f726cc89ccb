"""Small tokenizers of every kind that models come with, each in a model directory without weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")

# With merges over spaces and line breaks where nothing splits them: borders of contents inside a token.
TEXTS = [
    "the answer is\n\n",
    "<|user|>\nwhat is the\n<|assistant|>\nit is the ",
    ":  yes\n\nUser: no\n\nAssistant: é 漢字",
    "<think>well,</think>so it is",
]

GPT_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How cl100k, and with it Llama 3, OLMo 2 and Qwen, cut a text before they merge."""


def _special(lstrip: Sequence[str] = (), rstrip: Sequence[str] = ()) -> list[AddedToken]:
    return [
        AddedToken(token, special=True, normalized=False, lstrip=token in lstrip, rstrip=token in rstrip)
        for token in SPECIAL_TOKENS
    ]


def _train_bytes(tokenizer: Tokenizer, special: list[AddedToken] | None = None) -> Tokenizer:
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special or _special(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 9, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    """Bytes merged over any border: no split at all."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _train_bytes(tokenizer)


def byte_level_split() -> Tokenizer:
    """Llama 3's kind: a split by regular expression, then bytes."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(GPT_SPLIT), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _train_bytes(tokenizer)


def byte_level_trimmed() -> Tokenizer:
    """GPT-2's and OLMo's kind: offsets without the spaces at a token's ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return _train_bytes(tokenizer)


def byte_level_composed() -> Tokenizer:
    """Qwen's kind: characters are composed (NFC) first, so that the tokens are not the text's bytes."""
    tokenizer = byte_level_split()
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def byte_level_stripping() -> Tokenizer:
    """Phi's kind: special tokens that swallow the white space beside them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _train_bytes(tokenizer, _special(lstrip=["<|im_start|>", "<pad>"], rstrip=["<|im_end|>", "</s>"]))


def _pieces(prefix: str) -> models.BPE:
    """Merges over `▁` for spaces, and 256 tokens for bytes that nothing else spells."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=160, special_tokens=[], show_progress=False)
    trained.train_from_iterator([prefix + text for text in TEXTS] * 9, trainer)
    learned = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", *SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(merge) for merge in learned["merges"]]
    return models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def sentencepiece() -> Tokenizer:
    """Llama 2's kind: a space is put before each stretch of text and every space is a `▁`, in the normalizer."""
    tokenizer = Tokenizer(_pieces("▁"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(_special())
    return tokenizer


def metaspace() -> Tokenizer:
    """Mistral's kind: the same in the pre-tokenizer, and only at the start of the text."""
    tokenizer = Tokenizer(_pieces("▁"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(_special())
    return tokenizer


ZOO: dict[str, Callable[[], Tokenizer]] = {
    make.__name__: make
    for make in (
        byte_level,
        byte_level_split,
        byte_level_trimmed,
        byte_level_composed,
        byte_level_stripping,
        sentencepiece,
        metaspace,
    )
}


def write_model(directory: Path, tokenizer: Tokenizer, eos: str = "</s>", chat_template: str | None = None) -> Path:
    """A model directory with `tokenizer` and nothing to train."""
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": eos, "pad_token": "<pad>"}
    own = {"chat_template": chat_template} if chat_template else {}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, **own}))
    (directory / "config.json").write_text("{}")
    return directory
