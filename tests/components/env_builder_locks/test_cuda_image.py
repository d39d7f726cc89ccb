"""The versions of the CUDA image against its locks."""

from __future__ import annotations

import pytest

from components.env_builder_locks.third_party import ThirdParty, codes
from tunewright.env_builder.locks.cuda_image import VERSIONS, CudaVersions, cuda_versions, find_cuda_problems

WRITTEN = """
[cuda]
version = "13.0"
minimum_driver = "580"
minimum_compute_capability = "7.5"
[packages]
torch = "2.13.0"
flash-attn = "2.8.3"
[flash-attn]
cuda_archs = ["80", "90"]
"""


@pytest.fixture
def image(third_party: ThirdParty) -> ThirdParty:
    """A checkout whose CUDA image and locks agree."""
    third_party.resolve("train-cuda", "torch", "torch==2.13.0", "nvidia-cuda-runtime==13.0.96")
    third_party.resolve("flash-attn", "flash-attn", "flash-attn==2.8.3")
    _write(third_party, WRITTEN)
    return third_party


def _write(checkout: ThirdParty, text: str) -> None:
    file = checkout.root / VERSIONS
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_the_versions_are_read(image: ThirdParty) -> None:
    assert cuda_versions(image.root) == CudaVersions(
        "13.0", "580", "7.5", ("80", "90"), {"torch": "2.13.0", "flash-attn": "2.8.3"}
    )
    assert find_cuda_problems(image.root) == []


@pytest.mark.parametrize(
    ("before", "after", "field", "said"),
    [
        ('torch = "2.13.0"', 'torch = "2.12.0"', "packages.torch", "is 2.12.0; its locks have 2.13.0"),
        ('torch = "2.13.0"', 'triton = "3.7.1"', "packages.triton", "is 3.7.1; its locks have none"),
        ('version = "13.0"', 'version = "13.1"', "cuda.version", "is 13.1; the torch of its lock is built with 13.0"),
        ('"580"', '"570"', "cuda.minimum_driver", "is 570; this CUDA needs 580"),
    ],
)
def test_what_differs_from_the_locks_is_named_by_field(
    before: str, after: str, field: str, said: str, image: ThirdParty
) -> None:
    _write(image, WRITTEN.replace(before, after))
    (finding,) = find_cuda_problems(image.root)
    assert finding.code == "cuda-versions-disagree"
    assert finding.path == f"{VERSIONS}: {field}"
    assert said in finding.message


@pytest.mark.parametrize("text", ["[cuda", '[cuda]\nversion = "13.0"\n', "", "cuda = 1\n"])
def test_versions_that_cannot_be_read_are_told_in_words(text: str, image: ThirdParty) -> None:
    _write(image, text)
    assert cuda_versions(image.root) is None
    assert codes(find_cuda_problems(image.root)) == ["cuda-versions-unreadable"]


def test_a_checkout_without_a_cuda_image_has_no_problems(third_party: ThirdParty) -> None:
    assert find_cuda_problems(third_party.root) == []
