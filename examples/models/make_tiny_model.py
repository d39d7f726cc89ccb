"""Make `tiny/`: the configuration and the tokenizer of a small Llama model, for experiments that need no download.

There are no weights in it: an experiment draws them with `weights = "random"`. The same data gives the same bytes.
It needs the package `tokenizers`, in the version that the lock of the resolve `tools` pins.

    python examples/models/make_tiny_model.py --output examples/models/tiny
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

EXAMPLES = Path(__file__).parent.parent
VOCABULARY_SIZE = 512  # few, so that a minute of training meets each of them often
MAX_LENGTH_TOKENS = 2048

# Their places in the vocabulary are their places here.
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
BOS, EOS, PAD, _, END_OF_TURN = range(len(SPECIAL_TOKENS))

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def model_config() -> dict[str, Any]:
    """A Llama of 1.9 million parameters. All widths are multiples of 64, the block size of NF4 quantization."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": MAX_LENGTH_TOKENS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-06,
        "initializer_range": 0.04,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "use_cache": True,
        "dtype": "float32",
    }


def generation_config() -> dict[str, Any]:
    """What `generate` does unless told otherwise: it stops at the end of a turn, whichever template trained it."""
    return {"bos_token_id": BOS, "eos_token_id": [EOS, END_OF_TURN], "pad_token_id": PAD}


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs beside `tokenizer.json`. The class is the one that takes that file as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "pad_token": SPECIAL_TOKENS[PAD],
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH_TOKENS,
        "chat_template": CHAT_TEMPLATE,
    }


def texts_of(data: Path) -> Iterator[str]:
    """Every message of every conversation."""
    with data.open(encoding="utf-8") as lines:
        for line in lines:
            for message in json.loads(line)["messages"]:
                yield message["content"]


def train_tokenizer(data: Path) -> Tokenizer:
    """A byte-level BPE trained on `data`: any text can be encoded, and nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts_of(data), trainer)
    return tokenizer


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`, indented, with a last newline."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Write the four files and say what they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=EXAMPLES / "data" / "stdlib.jsonl", help="conversations to train on"
    )
    parser.add_argument("--output", type=Path, default=EXAMPLES / "models" / "tiny", help="directory to write")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(arguments.data)
    write_json(output / "tokenizer.json", json.loads(tokenizer.to_str()))
    write_json(output / "tokenizer_config.json", tokenizer_config())
    write_json(output / "config.json", model_config())
    write_json(output / "generation_config.json", generation_config())
    print(f"{tokenizer.get_vocab_size()} tokens, from {arguments.data.name}")


if __name__ == "__main__":
    main()
