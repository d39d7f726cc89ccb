"""Versions that are known to fail, alone or beside another, each with the reason and where it is known from.

Only what a resolver cannot know: the packages' own metadata allows every one of these. To add a row: say what happens,
what to use instead, and a source that can be looked up (`owner/project#number` is an issue or pull request on GitHub;
"the released files" says that they were opened and read; "measured" that it was run).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunewright.contracts.preflight import Severity

Target = Literal["cpu", "cuda"]
"""What a lock is installed for: machines without a GPU, or with NVIDIA's."""

CUDA = "cuda"
"""Stands for a package in `beside`: the CUDA that the lock's torch is built with."""


@dataclass(frozen=True)
class KnownBad:
    """Versions of one package that fail, and when."""

    code: str
    """The finding's code. Rows that are one story share it."""

    package: str
    versions: str
    """Which versions, as a specifier."""

    reason: str
    """What happens."""

    instead: str
    """What to use."""

    source: str
    """Where this is known from."""

    beside: tuple[str, str] | None = None
    """Only with these versions of another package in the same environment, or of `CUDA`. None: always."""

    target: Target | None = None
    """Only where the environment is for this. None: for any."""

    severity: Severity = Severity.ERROR
    """`error` where it cannot work, `warning` where it may not matter to this run."""


_NO_CUDA_LIBRARY = (
    "its wheel has no library for this CUDA: it loads its CPU library, which `was compiled without GPU support`, "
    "and 4-bit and 8-bit layers and optimizers fail"
)
_BITSANDBYTES_WHEELS = "the released files; bitsandbytes-foundation/bitsandbytes#1062, #1315, #1688"
_WARNING = Severity.WARNING


def _bitsandbytes(versions: str, first_missing_cuda: str, first_good: str) -> KnownBad:
    return KnownBad(
        "known-bad-bitsandbytes-cuda",
        "bitsandbytes",
        versions,
        _NO_CUDA_LIBRARY,
        f"bitsandbytes>={first_good}",
        _BITSANDBYTES_WHEELS,
        beside=(CUDA, f">={first_missing_cuda}"),
        target="cuda",
    )


KNOWN_BAD = (
    # The newest CUDA library in each wheel. From 0.50 on, the nearest of the same major version is taken.
    _bitsandbytes("<0.42", "12.3", "0.43.2"),
    _bitsandbytes("<0.43.1", "12.4", "0.43.2"),
    _bitsandbytes("<0.43.2", "12.5", "0.43.2"),
    _bitsandbytes("<0.45", "12.6", "0.45.1"),
    _bitsandbytes("<0.45.3", "12.8", "0.45.3"),
    _bitsandbytes("<0.46.1", "12.9", "0.46.1"),
    _bitsandbytes("<0.48", "13", "0.48"),
    KnownBad(
        "known-bad-bitsandbytes-cuda",
        "bitsandbytes",
        "<0.43",
        "its wheel has no CUDA library newer than 12.3, and finds even those only where the system's CUDA libraries "
        "are on the library path: else it `was compiled without GPU support`",
        "bitsandbytes>=0.48",
        "the released files; bitsandbytes-foundation/bitsandbytes#719, #853",
        target="cuda",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-bitsandbytes-cpu",
        "bitsandbytes",
        "<0.46",
        "4-bit quantization on a CPU raises `NotImplementedError: Device type not supported`: QLoRA needs a GPU",
        "bitsandbytes>=0.50",
        "the released files",
        target="cpu",
    ),
    KnownBad(
        "known-bad-bitsandbytes-triton",
        "bitsandbytes",
        "<0.45.1",
        "imports `triton.ops`, which is gone from triton 3.2 on: `No module named 'triton.ops'`",
        "bitsandbytes>=0.45.1",
        "the released files; bitsandbytes-foundation/bitsandbytes#1492",
        beside=("triton", ">=3.2"),
    ),
    KnownBad(
        "known-bad-peft-transformers",
        "peft",
        "<0.18",
        "imports `HybridCache`, which transformers 5 has not: `cannot import name 'HybridCache'`",
        "peft>=0.20",
        "the released files; huggingface/transformers#41889, huggingface/peft#3333",
        beside=("transformers", ">=5"),
    ),
    KnownBad(
        "known-bad-peft-transformers",
        "peft",
        "<0.20",
        "transformers refuses adapters of a peft older than 0.20.0 (`MIN_PEFT_VERSION`)",
        "peft>=0.20",
        "transformers 5.23.0, integrations/peft.py",
        beside=("transformers", ">=5.23"),
    ),
    KnownBad(
        "known-bad-deepspeed-numpy",
        "deepspeed",
        "<0.14.4",
        "imports `BUFSIZE` from numpy, which numpy 2 has not: `cannot import name 'BUFSIZE'`",
        "deepspeed>=0.14.4",
        "the released files; deepspeedai/DeepSpeed#5671, #5686",
        beside=("numpy", ">=2"),
    ),
    KnownBad(
        "known-bad-torch-numpy",
        "torch",
        "<2.3",
        "is compiled for numpy 1: `Numpy is not available` where a tensor meets an array",
        "torch>=2.3, or numpy<2",
        "pytorch/pytorch#107302",
        beside=("numpy", ">=2"),
    ),
    KnownBad(
        "known-bad-torch-load",
        "torch",
        "<2.6",
        "`torch.load` runs code of the file's author even with `weights_only=True` (CVE-2025-32434); transformers "
        "refuses to read anything but safetensors with it",
        "torch>=2.6",
        "CVE-2025-32434; huggingface/transformers, check_torch_load_is_safe",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-torch-conv3d",
        "torch",
        "==2.9.*",
        "convolutions over three dimensions in bfloat16 take several times the memory: vision-language models run out",
        "torch>=2.10",
        "pytorch/pytorch#166643",
        target="cuda",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-nccl-hang",
        "nvidia-nccl-cu12",
        "==2.29.2",
        "can hang (a regression of this release)",
        "nvidia-nccl-cu12>=2.29.3",
        "pytorch/pytorch#174338",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-nccl-hang",
        "nvidia-nccl-cu13",
        "==2.29.2",
        "can hang (a regression of this release)",
        "nvidia-nccl-cu13>=2.29.3",
        "pytorch/pytorch#174338",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-flash-attn-torch",
        "flash-attn",
        "<=2.7.4.post1",
        "its ready-made wheels are for the C++ ABI of torch before 2.7: `undefined symbol: _ZN3c105Error...`",
        "a newer flash-attn, built from source against this torch (`FLASH_ATTENTION_FORCE_BUILD=TRUE`)",
        "Dao-AILab/flash-attention#1644",
        beside=("torch", ">=2.7"),
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-flash-attn-torch",
        "flash-attn",
        ">=2.8.0",
        "its ready-made wheels are for the C++ ABI of torch from 2.7 on: `undefined symbol: _ZN3c105Error...`",
        "flash-attn==2.7.4.post1, or torch>=2.7",
        "huggingface/open-r1#684, Dao-AILab/flash-attention#1717",
        beside=("torch", "<2.7"),
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-flash-attn-cpu",
        "flash-attn",
        ">=0",
        "cannot be installed without a CUDA compiler: `CUDA_HOME environment variable is not set`",
        'attention = "sdpa", which needs nothing',
        "measured with 2.8.3.post2",
        target="cpu",
    ),
    KnownBad(
        "known-bad-liger-kernel-cpu",
        "liger-kernel",
        ">=0",
        "is of use on GPUs alone: `RuntimeError: 0 active drivers`",
        "no liger-kernel on CPUs",
        "measured with 0.8.5",
        target="cpu",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-liger-kernel-transformers",
        "liger-kernel",
        "<0.5.10",
        "imports `_CONFIG_FOR_DOC`, which transformers has not from 4.52 on",
        "liger-kernel>=0.5.10",
        "the released files; huggingface/trl#3480, axolotl-ai-cloud/axolotl#2767",
        beside=("transformers", ">=4.52"),
    ),
    KnownBad(
        "known-bad-liger-kernel-transformers",
        "liger-kernel",
        "<0.7",
        "was never made for transformers 5: its patches of models may not fit",
        "liger-kernel>=0.8",
        "linkedin/Liger-Kernel#1044, #1155",
        beside=("transformers", ">=5"),
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-accelerate-transformers",
        "accelerate",
        "<1.3",
        "transformers' Trainer passes it `keep_torch_compile`, which it does not take: a TypeError at the first step",
        "accelerate>=1.3",
        "the released files; instructlab/instructlab#3456, huggingface/transformers#38339",
        beside=("transformers", ">=4.52"),
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-transformers-loss",
        "transformers",
        ">=4.46,<4.48",
        "its Trainer sums the loss over accumulated steps instead of averaging it: too large by their number",
        "transformers>=5",
        "huggingface/transformers#34263, #35556",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-tokenizers-transformers",
        "tokenizers",
        "<0.23.1",
        "transformers refuses it when it is imported: it wants tokenizers>=0.23.1,<0.24",
        "tokenizers==0.23.3",
        "transformers 5.23.0, dependency_versions_table.py",
        beside=("transformers", "==5.23.*"),
    ),
    KnownBad(
        "known-bad-tokenizer-library",
        "tokie",
        "<=0.1.4",
        "gives other ids than the tokenizer it reads: a model trained on them learns another language",
        "tokenizers",
        "measured: 24 million tokens against tokenizers 0.23.3",
    ),
    KnownBad(
        "known-bad-tokenizer-library",
        "gigatoken",
        "<=0.10.0",
        "gives other ids, without an error, for added tokens with lstrip, rstrip or single_word",
        "tokenizers",
        "measured: 771 of 12,000 texts differ from tokenizers 0.23.3",
        severity=_WARNING,
    ),
    KnownBad(
        "known-bad-tokenizer-library",
        "kitoken",
        "<=0.11.1",
        "gives other ids for GPT-2, for SentencePiece with byte fallback, and for added tokens",
        "tokenizers",
        "measured: 12,000 texts against tokenizers 0.23.3",
        severity=_WARNING,
    ),
)
"""Every pin that is known to be bad, in the order it is reported."""
