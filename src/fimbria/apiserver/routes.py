"""From a URL path to what it names: a kind, a namespace, an object, a subresource.

The paths are those of the Kubernetes API ("Kubernetes API Concepts", resource URIs):
`/api/v1/…` for the core group, `/apis/GROUP/VERSION/…` for the others, then
`[namespaces/NS/]PLURAL[/NAME[/SUBRESOURCE]]`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fimbria.apiserver.errors import no_such_path
from fimbria.apiserver.resources import BY_PATH, Resource
from fimbria.apiserver.reviews import REVIEWS

_REVIEWS = {(row.group, row.version, row.plural): row for row in REVIEWS}
_NAMESPACE_SUBRESOURCES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about. Empty namespace: cluster-scoped, or all namespaces.

    `older` is the version that was asked for where it is not the resource's own.
    """

    resource: Resource
    namespace: str
    name: str
    subresource: str
    review: bool = False
    older: str = ""

    def as_asked(self, body: bytes) -> bytes:
        """Return JSON of the resource with the version that the client knows it by."""
        if not self.older:
            return body
        group = self.resource.group
        written = b'"apiVersion":"%s"' % self.resource.api_version.encode()
        return body.replace(written, b'"apiVersion":"%s"' % f"{group}/{self.older}".encode())


def parse(path: str) -> Target:
    """The target of a path below a group's version. Raises 404 for those that name nothing."""
    parts = path.strip("/").split("/")
    if not all(parts):
        raise no_such_path(path)
    core = parts[0] == "api"
    group, rest = ("", parts[1:]) if core else (parts[1], parts[2:])
    version, rest = rest[0], rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
        namespace, rest = rest[1], rest[2:]
    row = BY_PATH.get((group, version, rest[0]))
    review = _REVIEWS.get((group, version, rest[0]))
    if len(rest) > 3:
        raise no_such_path(path)
    name, subresource = (*rest[1:], "", "")[:2]
    if review and not name:
        return Target(review, "", "", "", review=True)
    if row is None or (name and row.namespaced and not namespace):
        raise no_such_path(path)
    if namespace and not row.namespaced:
        raise no_such_path(path)
    older = version if version in row.older else ""
    return Target(row, namespace, name, subresource, older=older)
