"""What can be set for one endpoint: `GET` and `PATCH /v1/endpoint/{id}/config`.

An option's name and values are those of Cilium: `PolicyAuditMode` Enabled or Disabled. What is set
is in the endpoint's state file and holds until it is set again, or the pod is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fimbria.agent.api import ApiError

if TYPE_CHECKING:
    from fimbria.agent.endpoints import Endpoint
    from fimbria.agent.lifecycle import Lifecycle

AUDIT = "PolicyAuditMode"
VALUES = {"Enabled": True, "Disabled": False}


def document(endpoint: Endpoint) -> dict[str, Any]:
    """Return an endpoint's options."""
    words = {value: word for word, value in VALUES.items()}
    return {"id": endpoint.id, "options": {AUDIT: words[endpoint.file.audit]}}


async def change(lifecycle: Lifecycle, endpoint: Endpoint, body: object) -> dict[str, Any]:
    """Set the options in `{"options": {name: value}}`; ApiError 400 naming the option."""
    asked: Any = cast("dict[str, Any]", body).get("options") if isinstance(body, dict) else None
    if not isinstance(asked, dict) or not asked:
        raise ApiError(400, "the body must be an object with options", field="options")
    for name, value in cast("dict[str, Any]", asked).items():
        if name != AUDIT:
            raise ApiError(400, f"there is no option {name}", name, f"there is {AUDIT}")
        if value not in VALUES:
            raise ApiError(400, f"{value!r} is none of {', '.join(VALUES)}", field=name)
        await lifecycle.set_audit(endpoint, VALUES[value])
    return document(endpoint)
