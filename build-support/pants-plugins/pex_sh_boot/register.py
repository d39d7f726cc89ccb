"""Single-file PEXes that start through `/bin/sh`: a warm start skips Pex's own 0.2 s of Python and goes to the venv.

Pants 2.17 has no field for Pex's `--sh-boot` (`extra_build_args` came later), so this adds the option where the
arguments of a `pex_binary` are put together. When Pants is upgraded, replace it by that field.
"""

from __future__ import annotations

from typing import Tuple

from pants.backend.python.goals.package_pex_binary import PexBinaryFieldSet
from pants.backend.python.target_types import PexLayout

_generate_additional_args = PexBinaryFieldSet.generate_additional_args


def _with_sh_boot(self: PexBinaryFieldSet, *args, **kwargs) -> Tuple[str, ...]:
    arguments = _generate_additional_args(self, *args, **kwargs)
    is_single_file = self.layout.value == PexLayout.ZIPAPP.value
    return (*arguments, "--sh-boot") if is_single_file and "--venv" in arguments else arguments


def rules():
    PexBinaryFieldSet.generate_additional_args = _with_sh_boot
    return []
