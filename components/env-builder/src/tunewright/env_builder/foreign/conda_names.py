"""What conda calls packages that the Python index calls otherwise, and what of conda's is no Python package at all."""

from __future__ import annotations

import re

PYPI_NAMES = {
    "antlr-python-runtime": "antlr4-python3-runtime",
    "brotli-python": "brotli",
    "dask-core": "dask",
    "faiss": "faiss-cpu",
    "graphviz-python": "graphviz",
    "matplotlib-base": "matplotlib",
    "msgpack-python": "msgpack",
    "opencv": "opencv-python",
    "protobuf-python": "protobuf",
    "py-opencv": "opencv-python",
    "py-xgboost": "xgboost",
    "pyarrow-core": "pyarrow",
    "pyqt": "pyqt5",
    "python-duckdb": "duckdb",
    "python-flatbuffers": "flatbuffers",
    "python-graphviz": "graphviz",
    "python-kubernetes": "kubernetes",
    "python-xxhash": "xxhash",
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "tensorflow-base": "tensorflow",
    "tensorflow-gpu": "tensorflow",
    "torchtriton": "triton",
}
"""The index's name of a conda package, where it is another one."""

_OTHER_WORLDS = """
alsa-lib aom arrow-cpp attr binutils blas bzip2 c-ares ca-certificates cairo clang cmake compilers cuda cudatoolkit
cudnn cutensor cxx-compiler dbus expat fftw ffmpeg fontconfig freetype fribidi gawk gcc gdb gettext gfortran gh git
git-lfs giflib glib gmp gnuplot gnutls go graphite2 graphviz gsl gst-plugins-base gstreamer gxx harfbuzz hdf5 hwloc
icu intel-openmp jpeg jq julia kernel-headers_linux-64 keyutils krb5 lame lcms2 ld_impl_linux-64 lerc lz4-c make
magma maven mkl mkl-include mpc mpfr mpi mpich mysql nasm nccl ncurses ninja-base nodejs nspr nss ocl-icd onednn
openblas openh264 openjdk openjpeg openmp openmpi openssl orc p11-kit pandoc pango parallel pcre pcre2 perl pixman
pkg-config poppler postgresql pthread-stubs python_abi pytorch-cuda pytorch-mutex qt qt-main r-base re2 readline
rsync ruby rust s2n sed snappy spdlog sqlite sysroot_linux-64 tar tbb tesseract tini tk tmux tzdata ucx unixodbc
unzip vc vim wget x264 x265 xorg-libx11 xz yaml yaml-cpp zip zlib zlib-ng zstd
"""
_NOT_PYTHON = frozenset(_OTHER_WORLDS.split())
_NOT_PYTHON_PATTERN = re.compile(
    r"^(_|lib|r-|perl-|ruby-|xorg-|cuda-|gcc_|gxx_|gfortran_|binutils_|clang_|sysroot_|kernel-headers|ld_impl|compiler-rt)"
    r"|-(devel|dev|static|cpp|headers|proc|abi)$"
)
_PYTHON_AFTER_ALL = frozenset({"libclang", "libcst", "librosa", "libsass", "libtmux", "cuda-python", "cuda-bindings"})
_PYTHON_BUILD = re.compile(r"(?:^|_)py(?:h|\d|_)")


def pypi_name(conda_name: str) -> str | None:
    """What the Python index calls `conda_name`; None where it is known to be nothing of Python's."""
    name = conda_name.lower()
    if name in PYPI_NAMES:
        return PYPI_NAMES[name]
    if name in _PYTHON_AFTER_ALL:
        return name
    return None if name in _NOT_PYTHON or _NOT_PYTHON_PATTERN.search(name) else name


def is_python_build(build: str) -> bool:
    """Whether conda's build text (`py311h1234_0`, `pyhd8ed1ab_0`) is one of a Python package."""
    return bool(_PYTHON_BUILD.search(build))
