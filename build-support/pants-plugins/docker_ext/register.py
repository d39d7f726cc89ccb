"""Fields of `docker_image` that Pants 2.17 lacks: `build_network`, the `--network` of `docker build`."""

from __future__ import annotations

from typing import Iterator

from pants.backend.docker.target_types import DockerBuildOptionFieldMixin, DockerImageTarget
from pants.engine.target import StringField


class DockerImageBuildNetworkField(DockerBuildOptionFieldMixin, StringField):
    alias = "build_network"
    default = "none"
    help = (
        "The network of RUN instructions. The default, none: what an image holds is decided by locks, not by mirrors."
    )
    docker_build_option = "--network"

    def option_values(self, **kwargs) -> Iterator[str]:
        if self.value:
            yield self.value


def rules():
    return [DockerImageTarget.register_plugin_field(DockerImageBuildNetworkField)]
