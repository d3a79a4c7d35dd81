"""Policies that hold although the API has newer versions, remembered over the agent's death.

A version that is not taken up leaves the one before in force, and the API no longer has that one.
Without it the next agent would have nothing to put in force, and what it closed would be open.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.agent.statefiles import replace_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fimbria.sources.resources import Document

FILE = "policies.json"
FORMAT = 1

log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The objects, as the API had them, kind included."""

    format: int = FORMAT
    documents: list[dict[str, Any]]


def load(path: Path) -> list[Document]:
    """Return the remembered objects; none, and an error in the log, if the file is malformed."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, OSError) as error:
        log.error("%s: %s; policies begin with what the API has", path, error)
        return []
    return kept.documents if kept.format == FORMAT else []


def save(path: Path, documents: Sequence[Document]) -> None:
    """Remember exactly these objects; without any there is no file. A failure is logged."""
    try:
        if documents:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(_Kept(documents=list(documents))))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.error("%s: %s; older versions of policies are not remembered", path, error)
