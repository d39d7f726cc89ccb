"""What this repository needs of Pex: that it is there, and that what it makes starts quickly.

The Pex PEX. `[pex-cli]` in pants.toml names a file that `ensure-pex.sh` makes. `./pants` and the official launcher
(by .pants.bootstrap) make it before Pants starts; a `pants` that pip installed does neither, so it is made here too.

`--sh-boot`. A single-file PEX then starts through `/bin/sh`: a warm start skips Pex's own 0.2 s of Python and goes to
the venv. Pants 2.17 has no field for it (`extra_build_args` came later), so the option is added where the arguments of
a `pex_binary` are put together. When Pants is upgraded, replace it by that field.

One installation of a lockfile. Pants keeps all packages of a lockfile as a PEX, out of which it takes what each target
needs: one for its own use, by the interpreter it has found, and one for what is packaged, by the constraints. Here both
are the same interpreter (`./pants` names one) and the same packages, and each takes a minute or two.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Tuple

from pants.backend.python.goals.package_pex_binary import PexBinaryFieldSet
from pants.backend.python.target_types import PexLayout
from pants.backend.python.util_rules.pex import PexRequest
from pants.backend.python.util_rules.pex_requirements import EntireLockfile
from pants.base.build_environment import get_buildroot

_generate_additional_args = PexBinaryFieldSet.generate_additional_args
_check_request = PexRequest.__post_init__


def _with_sh_boot(self: PexBinaryFieldSet, *args, **kwargs) -> Tuple[str, ...]:
    arguments = _generate_additional_args(self, *args, **kwargs)
    is_single_file = self.layout.value == PexLayout.ZIPAPP.value
    return (*arguments, "--sh-boot") if is_single_file and "--venv" in arguments else arguments


def _with_one_lockfile(self: PexRequest) -> None:
    if isinstance(self.requirements, EntireLockfile) and not (self.platforms or self.complete_platforms):
        object.__setattr__(self, "internal_only", True)
    _check_request(self)


def _ensure_pex() -> None:
    subprocess.run([str(Path(get_buildroot()) / "build-support/bootstrap/ensure-pex.sh")], check=True)


def rules():
    _ensure_pex()
    PexBinaryFieldSet.generate_additional_args = _with_sh_boot
    PexRequest.__post_init__ = _with_one_lockfile
    return []
