"""What Pants 2.17 lacks for `docker_image`: `build_network`, and the id of every image that BuildKit writes."""

from __future__ import annotations

import re
from typing import Iterator

from pants.backend.docker.goals import package_image
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


# BuildKit tells the seconds where there are some: `writing image sha256:... 0.1s done`. Pants then takes the image's id
# for unknown, and would not see when an image below another one has changed.
_WRITTEN = re.compile(r"writing image (sha256:[0-9a-f]{64})")

_parse_as_pants_does = package_image.parse_image_id_from_docker_build_output


def _parse_image_id(*outputs: bytes) -> str:
    written = [found for output in outputs for found in _WRITTEN.findall(output.decode(errors="replace"))]
    return written[-1] if written else _parse_as_pants_does(*outputs)


package_image.parse_image_id_from_docker_build_output = _parse_image_id


def rules():
    return [DockerImageTarget.register_plugin_field(DockerImageBuildNetworkField)]
