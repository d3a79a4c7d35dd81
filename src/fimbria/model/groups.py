"""Reading CiliumCIDRGroup (cilium.io/v2 and v2alpha1): named lists of address prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.model.cidr_parse import network_or_address
from fimbria.model.fields import Fields
from fimbria.model.labels import Label
from fimbria.model.peers import GROUP_NAME, CidrGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

SOURCE = "cidrgroup"


def read_group(document: Mapping[str, Any]) -> CidrGroup:
    """Return a group, its prefixes sorted and without duplicates.

    Raises PolicyError with the field's path; a group with one wrong prefix is wrong as a whole.
    """
    meta = Fields(document.get("metadata"), "metadata")
    name = meta.name("name")
    own = {str(Label(SOURCE, key, text)) for key, text in meta.texts("labels").items() if key}
    # Nobody passes for another group by a label.
    labels = {label for label in own if not label.startswith(GROUP_NAME)}
    labels.add(f"{GROUP_NAME}/{name}")
    spec = Fields(document.get("spec"), "spec")
    prefixes = spec.each("externalCIDRs", network_or_address) or ()
    spec.done()
    return CidrGroup(name, tuple(sorted(labels)), tuple(sorted(set(prefixes))))
