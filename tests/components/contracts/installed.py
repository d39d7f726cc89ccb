"""Plugins as a user has them: distributions with metadata, found by entry points in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLUSTER = """
from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.spec import Spec

@hookimpl
def tunewright_register_clusters(register):
    register.add(ClusterInfo(name="{name}", summary="-", entry="{module}:Cluster", options_type=Spec, api={api}))
"""


@dataclass(frozen=True)
class Site:
    """A directory that is on the path of the process that is asked."""

    path: Path

    def install(self, distribution: str, source: str, entry_point: str = "", version: str = "1.0") -> str:
        """Install a distribution with one plugin; gives its module's name."""
        module = distribution.replace("-", "_")
        info = self.path / f"{module}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[tunewright]\n{entry_point or distribution} = {module}\n")
        (self.path / f"{module}.py").write_text(source)
        return module

    def cluster(self, distribution: str, name: str, api: int = 1, entry_point: str = "") -> str:
        """Install a distribution that registers the cluster `name`."""
        module = distribution.replace("-", "_")
        return self.install(distribution, CLUSTER.format(name=name, module=module, api=api), entry_point)

    def ask(self, script: str) -> Any:
        """Run `script` after `host = PluginHost.discover()`; gives what it assigns to `answer`, as JSON."""
        whole = (
            "import json\nfrom tunewright.contracts.plugins import PluginHost\n"
            "from tunewright.contracts.errors import TunewrightError\n"
            f"try:\n    host = PluginHost.discover()\n    {script}\n"
            "except TunewrightError as error:\n    answer = {'error': type(error).__name__, 'message': str(error)}\n"
            "print(json.dumps(answer))"
        )
        path = os.pathsep.join([str(self.path), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", whole], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
