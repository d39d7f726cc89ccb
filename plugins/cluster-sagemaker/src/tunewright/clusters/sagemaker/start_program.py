"""The start program as the job gets it: its text in hyperparameters, and the few words that run it.

SageMaker allows 100 arguments of 256 characters, and 100 variables of 512 (botocore's model of CreateTrainingJob). A
hyperparameter holds 2,500, and each container finds all of them in one file. So the job's command, variables and files
go there, in base64: every byte arrives as it is, whatever is done to quotes and newlines on the way.
"""

from __future__ import annotations

import base64
import inspect

from tunewright.clusters.sagemaker import start

_PIECE_CHARACTERS = 2400

BOOT = (
    'import base64,json,sys;h=json.load(open(sys.argv[1]+"/input/config/hyperparameters.json"));'
    'exec(base64.b64decode("".join(h[k]for k in sorted(h)if k[0]=="p")))'
)
"""Runs the hyperparameters `program-...`. Its argument is the container's `/opt/ml`."""

# Read once, with this module: a plan reads no files.
SOURCE = inspect.getsource(start)


def in_pieces(name: str, data: bytes) -> dict[str, str]:
    """`data` in base64 as hyperparameters `<name>-000` and so on."""
    text = base64.b64encode(data).decode()
    starts = range(0, len(text), _PIECE_CHARACTERS)
    return {f"{name}-{number:03}": text[at : at + _PIECE_CHARACTERS] for number, at in enumerate(starts)}


def out_of_pieces(name: str, hyperparameters: dict[str, str]) -> bytes:
    """What `in_pieces` was given."""
    names = sorted(key for key in hyperparameters if key.startswith(f"{name}-"))
    return base64.b64decode("".join(hyperparameters[key] for key in names))
