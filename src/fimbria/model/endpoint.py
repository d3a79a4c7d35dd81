"""What policy needs of an endpoint, and what a flow is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fimbria.model.policy import Protocol


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A container port with a name; names are compared in lower case."""

    name: str
    protocol: Protocol
    port: int
