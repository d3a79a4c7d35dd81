"""Questions about the caller that clients ask by creating an object that is never stored.

Whoever has the token may do everything, so every access review is allowed; `kubectl auth can-i`
and `auth whoami` and controllers that check their rights at start work with that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.apiserver.resources import Resource

if TYPE_CHECKING:
    from fimbria.apiserver.entry import Object

_AUTHORIZATION = "authorization.k8s.io"
REVIEWS: tuple[Resource, ...] = (
    Resource(_AUTHORIZATION, "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews",
             namespaced=False),
    Resource(_AUTHORIZATION, "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews",
             namespaced=False),
    Resource("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews",
             namespaced=False),
)  # fmt: skip


def answer(review: Resource, document: Object, user: str) -> Object:
    """The review with its status filled in."""
    match review.kind:
        case "SelfSubjectAccessReview":
            status: Object = {"allowed": True, "reason": "the token may do everything"}
        case "SelfSubjectRulesReview":
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            paths = {"verbs": ["*"], "nonResourceURLs": ["*"]}
            status = {
                "resourceRules": [everything],
                "nonResourceRules": [paths],
                "incomplete": False,
            }
        case _:
            groups = ["system:masters", "system:authenticated"]
            status = {"userInfo": {"username": user, "groups": groups}}
    return {**document, "apiVersion": review.api_version, "kind": review.kind, "status": status}
