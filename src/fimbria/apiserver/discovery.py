"""What the server serves, in the forms that clients discover it by.

Legacy documents (APIVersions, APIGroupList, APIResourceList) for every client, and the aggregated
document (apidiscovery.k8s.io) that kubectl asks for first since 1.26. All are built from
`RESOURCES`; reviews are the create-only kinds of `reviews.py`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from fimbria.apiserver.resources import Resource, groups
from fimbria.apiserver.reviews import REVIEWS

if TYPE_CHECKING:
    from fimbria.apiserver.entry import Object

VERSION: Object = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.0+fimbria",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "linux/amd64",
}
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_SUB_VERBS = ("get", "patch", "update")
POD_CREATES = {"binding": ("", "v1", "Binding"), "eviction": ("policy", "v1", "Eviction")}
"""Subresources of pods that are created, with the kind of what is sent."""


def api_versions() -> Object:
    """/api: the core group's versions."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_group_list() -> Object:
    """/apis: all named groups."""
    rows = [api_group(name) for name in _served() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": rows}


def api_group(name: str) -> Object | None:
    """/apis/NAME: one group's versions, or None."""
    if name not in _served():
        return None
    versions = [{"groupVersion": f"{name}/{v}", "version": v} for v in _served()[name]]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def api_resource_list(group: str, version: str) -> Object | None:
    """/api/v1 or /apis/GROUP/VERSION: the kinds and their subresources, or None."""
    rows = _served().get(group, {}).get(version)
    if rows is None:
        return None
    resources: list[Object] = []
    for row in rows:
        resources.append(
            {
                "name": row.plural,
                "singularName": row.singular,
                "namespaced": row.namespaced,
                "kind": row.kind,
                "verbs": list(_verbs(row)),
                "shortNames": list(row.short),
                "categories": list(row.categories),
            }
        )
        for name, (g, v, kind), verbs in _subresources(row):
            resources.append(
                {
                    "name": f"{row.plural}/{name}",
                    "singularName": "",
                    "namespaced": row.namespaced,
                    "group": g,
                    "version": v,
                    "kind": kind,
                    "verbs": list(verbs),
                }
            )
    api_version = f"{group}/{version}" if group else version
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": resources,
    }


def aggregated(core: bool, version: str) -> Object:
    """The aggregated document for /api (`core`) or /apis, in version v2 or v2beta1."""
    items: list[Object] = []
    for group, versions in _served().items():
        if (not group) is core:
            items.append(
                {
                    "metadata": {"name": group, "creationTimestamp": None},
                    "versions": [
                        {
                            "version": v,
                            "freshness": "Current",
                            "resources": [_aggregated_row(row) for row in rows],
                        }
                        for v, rows in versions.items()
                    ],
                }
            )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_row(row: Resource) -> Object:
    scope = "Namespaced" if row.namespaced else "Cluster"
    result: Object = {
        "resource": row.plural,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": scope,
        "singularResource": row.singular,
        "verbs": list(_verbs(row)),
    }
    if row.short:
        result["shortNames"] = list(row.short)
    if row.categories:
        result["categories"] = list(row.categories)
    subresources = [
        {
            "subresource": name,
            "responseKind": {"group": g, "version": v, "kind": kind},
            "verbs": list(verbs),
        }
        for name, (g, v, kind), verbs in _subresources(row)
    ]
    if subresources:
        result["subresources"] = subresources
    return result


def _verbs(row: Resource) -> tuple[str, ...]:
    return ("create",) if row in REVIEWS else VERBS


def _subresources(row: Resource) -> list[tuple[str, tuple[str, str, str], tuple[str, ...]]]:
    result: list[Any] = []
    if row.status:
        result.append(("status", (row.group, row.version, row.kind), _SUB_VERBS))
    if row.scale:
        result.append(("scale", ("autoscaling", "v1", "Scale"), _SUB_VERBS))
    if row.kind == "Pod":
        result.extend((name, kind, ("create",)) for name, kind in POD_CREATES.items())
        result.append(("log", ("", "v1", "Pod"), ("get",)))
    return result


@cache
def _served() -> dict[str, dict[str, list[Resource]]]:
    served = groups()
    for row in REVIEWS:
        served.setdefault(row.group, {}).setdefault(row.version, []).append(row)
    return served
