"""What the Kubernetes API can answer instead of the thing asked for, with predicates.

Callers ask `is_conflict(error)` and the like; nobody compares status codes or messages.
"""

from __future__ import annotations


class KubeError(Exception):
    """The API answered with a failure: HTTP `status`, the Status's `reason` and `message`."""

    def __init__(self, status: int, reason: str, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.status = status
        self.reason = reason
        self.message = message


class KubeUnreachable(Exception):
    """No answer: nobody listens, the connection broke, TLS failed or time ran out."""


class KubeconfigError(Exception):
    """A kubeconfig that cannot be used; the message names file and field."""


class DecodeError(Exception):
    """An object of the API that has not the form its kind has; names kind, object and field."""

    def __init__(self, kind: str, name: str, reason: str) -> None:
        super().__init__(f"{kind} {name}: {reason}")
        self.kind = kind
        self.name = name
        self.reason = reason


def is_not_found(error: BaseException) -> bool:
    """True if the object, or the kind itself, does not exist."""
    return isinstance(error, KubeError) and error.status == 404


def is_conflict(error: BaseException) -> bool:
    """True if someone else changed the object since it was read (not: it exists already)."""
    return isinstance(error, KubeError) and error.status == 409 and error.reason != "AlreadyExists"


def is_already_exists(error: BaseException) -> bool:
    """True if an object of that name is there."""
    return isinstance(error, KubeError) and error.status == 409 and error.reason == "AlreadyExists"


def is_gone(error: BaseException) -> bool:
    """True if the history asked for is compacted or never was: list again."""
    return isinstance(error, KubeError) and (
        error.status == 410
        or error.reason in ("Expired", "Gone")
        # A server that was restored from a backup has not reached our resourceVersion.
        or (error.status == 504 and "resource version" in error.message.lower())
    )


def is_forbidden(error: BaseException) -> bool:
    """True if the credentials are missing, wrong, or not enough."""
    return isinstance(error, KubeError) and error.status in (401, 403)


def is_transient(error: BaseException) -> bool:
    """True if the same request may succeed later: unreachable, overloaded, or a server's fault."""
    if isinstance(error, KubeUnreachable):
        return True
    return isinstance(error, KubeError) and (error.status == 429 or error.status >= 500)
