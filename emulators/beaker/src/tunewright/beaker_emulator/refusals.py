"""What the server answers when it will not do what it was asked, as gRPC and as HTTP."""

from __future__ import annotations

import grpc


class Refusal(Exception):
    """A call that is refused, with the one message that the client shows."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400


class InvalidRequest(Refusal):
    """The request cannot be meant: an unknown field, a value that is not allowed."""


class NotFound(Refusal):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    http_status = 404


class Forbidden(Refusal):
    """The user may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403


class Unauthenticated(Refusal):
    """The token is no user's."""

    code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class Conflict(Refusal):
    """The name is taken, or the thing is past changing."""

    code = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409


class NotEmulated(Refusal):
    """Beaker has it, this emulator has not."""

    code = grpc.StatusCode.UNIMPLEMENTED
    http_status = 405  # the client tries again after 501
