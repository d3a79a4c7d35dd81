"""Schemas as a CustomResourceDefinition holds them ("structural", apiextensions.k8s.io/v1).

A field that a schema does not name is kept, at every depth. An API server that dropped it would
turn a rule with a restriction that is new to us into a rule without it; kept, it reaches the
agents, which refuse what they do not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.notation import ANY, INT_OR_STRING, TYPE_NAMES, Enum, Int, Schema, Text

if TYPE_CHECKING:
    from fimbria.apiserver.entry import Object

KEEP = "x-kubernetes-preserve-unknown-fields"


def structural(schema: Schema) -> Object:
    """Return a schema of `notation` as structural JSON schema."""
    if isinstance(schema, dict):
        return _object(cast("dict[str, Any]", schema))
    if isinstance(schema, list):
        return {"type": "array", "items": structural(schema[0])}
    if isinstance(schema, Enum):
        return {"type": "string", "enum": list(schema.values)}
    if isinstance(schema, Int):
        return {"type": "integer", "minimum": schema.low, "maximum": schema.high}
    if isinstance(schema, Text):
        return {"type": "string", "maxLength": schema.most, "pattern": schema.anchored}
    if schema is INT_OR_STRING:
        return {"x-kubernetes-int-or-string": True}
    if schema is ANY:
        return {KEEP: True}
    name = TYPE_NAMES[schema]
    if name == "object":
        return {"type": name, KEEP: True}
    return {"type": name, "items": {KEEP: True}} if name == "array" else {"type": name}


def _object(fields: dict[str, Schema]) -> Object:
    if "*" in fields:
        return {"type": "object", "additionalProperties": structural(fields["*"])}
    found: Object = {
        "type": "object",
        KEEP: True,
        "properties": {name.removesuffix("!"): structural(one) for name, one in fields.items()},
    }
    if required := [name[:-1] for name in fields if name.endswith("!")]:
        found["required"] = required
    return found
