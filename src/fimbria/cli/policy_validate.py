"""`fimbria policy validate`: whether policies can be enforced, before anybody applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import format_option
from fimbria.cli.worldoptions import node_labels_option

if TYPE_CHECKING:
    from fimbria.analysis.objects import Named
    from fimbria.sources.files import Manifest, ManifestError

_NO_POLICIES = ("CiliumNode", "CiliumIdentity", "CiliumEndpoint")


@click.command("validate")
@format_option
@click.argument("paths", nargs=-1, metavar="[FILE]...")
@click.option("-f", "--filename", "files", multiple=True, metavar="FILE", help="The same as FILE.")
@node_labels_option
def validate(
    form: Format, paths: tuple[str, ...], files: tuple[str, ...], node_labels: bool
) -> None:
    """Say whether the policies in FILEs (folders, - for standard input) can be enforced.

    Policies of every kind, and CiliumCIDRGroups; other objects are left alone, and so are folders
    within folders. Two objects of one kind and name are a mistake as well, since one would replace
    the other. What is valid but not enforced yet, such as rules for HTTP, is told of. Exit code 1
    if anything is wrong.
    """
    from fimbria.analysis.objects import Named
    from fimbria.sources.files import ManifestError, scan

    paths = (*paths, *files)
    if not paths:
        raise click.UsageError("name a file: FILE or -f FILE")
    named = Named()
    findings = [
        unreadable(one) if isinstance(one, ManifestError) else finding(one, named, node_labels)
        for one in scan(paths)
    ]
    found = [one for one in findings if one is not None]
    if not found:
        raise CliError(f"no policy in {', '.join(paths)}")
    emit(form, found, lambda: table(found))
    if any(one["reason"] for one in found):
        raise SystemExit(1)


def table(findings: list[dict[str, Any]]) -> Table:
    """Return the findings for people."""
    rows = Table(["WHERE", "KIND", "NAME", "RESULT"])
    for one in findings:
        said = ": ".join(filter(None, (one["field"], one["reason"]))) or "valid"
        said += "".join(f"\nnot enforced yet: {text}" for text in one["pending"])
        name = "/".join(filter(None, (one["namespace"], one["name"])))
        rows.add(f"{one['file']}:{one['line']}", one["kind"], name, said)
    return rows


def finding(manifest: Manifest, named: Named, node_labels: bool = False) -> dict[str, Any] | None:
    """Return what is wrong with a manifest (`reason` is empty if nothing is); None: no policy.

    `named` are those before it, which it joins.
    """
    from fimbria.analysis.objects import (
        OTHER_KINDS,
        POLICY_GROUPS,
        check_version,
        group_of,
        no_such_kind,
    )
    from fimbria.model.groups import read_group
    from fimbria.model.kinds import CIDR_GROUP, GROUPS
    from fimbria.model.policy import PolicyError
    from fimbria.model.policy_parse import parse_policy
    from fimbria.sources.files import ManifestError

    refusal: tuple[str, str] | None = None
    pending: tuple[tuple[str, str], ...] = ()
    group, kind = group_of(manifest), manifest.kind
    policy, cidrs = GROUPS.get(kind) == group, (group, kind) == ("cilium.io", CIDR_GROUP)
    try:
        if policy or cidrs:
            check_version(manifest)
            named.note(manifest)
        if policy:
            read = parse_policy(manifest.document, node_labels=node_labels)
            refusal, pending = read.refusal, read.pending
        elif cidrs:
            read_group(manifest.document)
        elif group in POLICY_GROUPS and kind not in OTHER_KINDS and kind not in _NO_POLICIES:
            refusal = "kind", no_such_kind(group, kind)
        else:
            return None
    except PolicyError as error:
        refusal = error.path, error.reason
    except ManifestError as error:
        refusal = error.field, error.reason
    path, reason = refusal or ("", "")
    return {
        "file": manifest.file,
        "line": manifest.line(path),
        "kind": kind,
        "namespace": manifest.namespace,
        "name": manifest.name,
        "field": path,
        "reason": reason,
        "pending": [f"{where}: {why}" for where, why in pending],
    }


def unreadable(error: ManifestError) -> dict[str, Any]:
    """Return a text or a document that is no manifest as a finding."""
    return {
        "file": error.file, "line": error.line, "kind": "", "namespace": "", "name": "",
        "field": error.field, "reason": error.reason, "pending": [],
    }  # fmt: skip
