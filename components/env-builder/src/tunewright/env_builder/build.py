"""From a request to an environment, whichever kind it asks for."""

from __future__ import annotations

from tunewright.contracts.environments import EnvironmentRequest
from tunewright.env_builder.record import ProvidedEnvironment


def ensure_environment(request: EnvironmentRequest) -> ProvidedEnvironment:
    """The environment of `request`, built where it is not there yet.

    Raises PreflightFailed where it cannot be built here, EnvironmentBuildFailed naming the log where building fails.
    """
    if request.spec.kind == "image":
        from tunewright.env_builder.images.build import ensure_image
        from tunewright.env_builder.images.options import ImageOptions

        return ensure_image(request, ImageOptions.from_environment())
    from tunewright.env_builder.pex_build import ensure_pex

    return ensure_pex(request)
