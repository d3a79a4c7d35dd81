"""Failures as Kubernetes clients understand them.

Everything below the HTTP layer raises `ApiError`; the HTTP layer turns it into a `Status` object
(Kubernetes API conventions, "Response Status Kind"). Clients branch on `reason` and `code`, so
these are the values that client-go's predicates test for.
"""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that fails: an HTTP code, a Kubernetes reason, a message and optional details."""

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The `Status` object, ready to be encoded."""
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            document["details"] = self.details
        return document


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"name": name, "kind": kind} if name else {"kind": kind}


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def unauthorized(hint: str) -> ApiError:
    """401: no valid credentials."""
    return ApiError(401, "Unauthorized", f"Unauthorized: {hint}")


def forbidden(plural: str, name: str, why: str) -> ApiError:
    """403: understood, and refused."""
    return ApiError(
        403, "Forbidden", f'{plural} "{name}" is forbidden: {why}', _named(plural, name)
    )


def not_found(plural: str, name: str) -> ApiError:
    """404: there is no such object."""
    return ApiError(404, "NotFound", f'{plural} "{name}" not found', _named(plural, name))


def no_such_path(path: str) -> ApiError:
    """404: there is nothing at this path; clients tell it from a missing object by the details."""
    return ApiError(404, "NotFound", f"the server could not find the requested resource: {path}")


def method_not_allowed(method: str, path: str) -> ApiError:
    """405: the path is there, the verb is not."""
    return ApiError(405, "MethodNotAllowed", f"{method} is not allowed on {path}")


def already_exists(plural: str, name: str) -> ApiError:
    """409 on create."""
    return ApiError(409, "AlreadyExists", f'{plural} "{name}" already exists', _named(plural, name))


def conflict(plural: str, name: str, why: str) -> ApiError:
    """409 on update, patch or delete: the client acted on an older version."""
    message = f'Operation cannot be fulfilled on {plural} "{name}": {why}'
    return ApiError(409, "Conflict", message, _named(plural, name))


MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def expired(message: str) -> ApiError:
    """410: the history asked for is gone; the client lists again."""
    return ApiError(410, "Expired", message)


def unsupported_media(message: str) -> ApiError:
    """415: a body or patch type that this server does not take."""
    return ApiError(415, "UnsupportedMediaType", message)


def invalid(kind: str, group: str, name: str, causes: list[dict[str, str]]) -> ApiError:
    """422: the object breaks rules; `causes` are field errors from `cause`."""
    texts = [f"{cause['field']}: {cause['message']}" for cause in causes]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    full_kind = f"{kind}.{group}" if group else kind
    details = {"name": name, "group": group, "kind": kind, "causes": causes}
    return ApiError(422, "Invalid", f'{full_kind} "{name}" is invalid: {joined}', details)


def cause(reason: str, field: str, message: str) -> dict[str, str]:
    """One field error: `reason` is a FieldValue… constant, `field` a path like spec.ports[0]."""
    return {"reason": reason, "field": field, "message": message}
