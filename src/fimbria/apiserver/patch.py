"""JSON merge patch (RFC 7386) and JSON patch (RFC 6902): (document, patch) → document.

Pure functions of decoded JSON of any shape. What does not fit raises `ApiError` (400, or 422 where
a JSON patch cannot be applied to this object), never anything else. The arguments are not changed,
and a result may share parts with them.
"""

from __future__ import annotations

from typing import Any, cast

from fimbria.apiserver.errors import ApiError, bad_request

MAX_OPERATIONS = 10_000
"""Operations in one JSON patch, as many as kube-apiserver takes."""

_Map = dict[str, Any]


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result: _Map = dict(cast("_Map", document)) if isinstance(document, dict) else {}
    for key, value in cast("_Map", patch).items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


# JSON patch ------------------------------------------------------------------


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902: the operations in order, all or nothing."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    operations = cast("list[Any]", operations)
    if len(operations) > MAX_OPERATIONS:
        raise bad_request(f"a JSON patch has at most {MAX_OPERATIONS} operations")
    for index, operation in enumerate(operations):
        document = _operate(document, operation, f"operation {index}")
    return document


def _operate(document: Any, operation: Any, where: str) -> Any:
    if not isinstance(operation, dict):
        raise bad_request(f"{where}: not an object")
    fields = cast("_Map", operation)
    path = _pointer(fields, "path", where)
    match fields.get("op"):
        case "add":
            return _set(document, path, _value(fields, where), where, insert=True)
        case "replace":
            _get(document, path, where)
            return _set(document, path, _value(fields, where), where, insert=False)
        case "remove":
            return _remove(document, path, where)
        case "test":
            if not _same(_get(document, path, where), _value(fields, where)):
                raise _unprocessable(f"{where}: testing value {fields['path']} failed")
            return document
        case "copy":
            return _set(document, path, _get(document, _pointer(fields, "from", where), where),
                        where, insert=True)  # fmt: skip
        case "move":
            source = _pointer(fields, "from", where)
            if path[: len(source)] == source and path != source:
                raise _unprocessable(f"{where}: cannot move a value into itself")
            value = _get(document, source, where)
            return _set(_remove(document, source, where), path, value, where, insert=True)
        case other:
            raise bad_request(f"{where}: unknown op {other!r}")


def _pointer(fields: _Map, name: str, where: str) -> list[str]:
    """The parts of a JSON pointer (RFC 6901)."""
    text = fields.get(name)
    if not isinstance(text, str):
        raise bad_request(f"{where}: {name} is missing or not a string")
    if text and not text.startswith("/"):
        raise bad_request(f"{where}: {name} {text!r} does not start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _value(fields: _Map, where: str) -> Any:
    if "value" not in fields:
        raise bad_request(f"{where}: value is missing")
    return fields["value"]


def _index(items: list[Any], part: str, where: str, *, end: bool) -> int:
    """A position in a list; with `end`, the one after the last too (`-` or its number)."""
    if end and part == "-":
        return len(items)
    # RFC 6901: ASCII digits without leading zeros.
    if not (part.isascii() and part.isdigit()) or (part[0] == "0" and part != "0"):
        raise _unprocessable(f"{where}: {part!r} is not a list index")
    if len(part) > 9 or int(part) >= len(items) + end:
        raise _unprocessable(f"{where}: index {part} is out of bounds")
    return int(part)


def _get(document: Any, path: list[str], where: str) -> Any:
    for part in path:
        if isinstance(document, dict) and part in document:
            document = cast("_Map", document)[part]
        elif isinstance(document, list):
            items = cast("list[Any]", document)
            document = items[_index(items, part, where, end=False)]
        else:
            raise _unprocessable(f"{where}: there is no {'/'.join(['', *path])}")
    return document


def _set(document: Any, path: list[str], value: Any, where: str, *, insert: bool) -> Any:
    """A copy of the document with the value at path; only the containers on the way are copied."""
    if not path:
        return value
    head, *rest = path
    if isinstance(document, dict):
        mapping: _Map = dict(cast("_Map", document))
        if rest and head not in mapping:
            raise _unprocessable(f"{where}: there is no {head!r} on the way to the value")
        mapping[head] = _set(mapping.get(head), rest, value, where, insert=insert)
        return mapping
    if isinstance(document, list):
        items: list[Any] = list(cast("list[Any]", document))
        index = _index(items, head, where, end=insert and not rest)
        if rest or not insert:
            items[index] = _set(items[index], rest, value, where, insert=insert)
        else:
            items.insert(index, value)
        return items
    raise _unprocessable(f"{where}: {head!r} is below a plain value")


def _remove(document: Any, path: list[str], where: str) -> Any:
    _get(document, path, where)
    if not path:
        return None
    head, *rest = path
    if isinstance(document, dict):
        mapping: _Map = dict(cast("_Map", document))
        if rest:
            mapping[head] = _remove(mapping[head], rest, where)
        else:
            del mapping[head]
        return mapping
    items: list[Any] = list(document)
    index = _index(items, head, where, end=False)
    if rest:
        items[index] = _remove(items[index], rest, where)
    else:
        del items[index]
    return items


def _same(left: Any, right: Any) -> bool:
    """JSON equality: like ==, but true is not 1 (RFC 6902 section 4.6)."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        first, second = cast("_Map", left), cast("_Map", right)
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(left, list) and isinstance(right, list):
        a, b = cast("list[Any]", left), cast("list[Any]", right)
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(left == right)


def _unprocessable(message: str) -> ApiError:
    return ApiError(422, "Invalid", f"the JSON patch cannot be applied: {message}")
