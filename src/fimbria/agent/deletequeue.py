"""Deletions that the CNI plugin left on disk while there was no agent.

Each file is the body of the request that could not be made. A file is removed once its deletion is
done; one that cannot be read is named and moved aside. Deleting is idempotent, so a crash between
the two does no harm.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.agent.cniresult import CniError, Request, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = "deleteQueue"
MALFORMED = ".malformed"

log = logging.getLogger(__name__)


def pending(folder: Path) -> Iterator[tuple[Path, Request]]:
    """Yield the queued deletions, the oldest first."""
    if not folder.is_dir():
        return
    files = [f for f in folder.iterdir() if f.suffix == ".json" and not f.name.startswith(".")]
    for path in sorted(files, key=_age):
        try:
            body: Any = msgspec.json.decode(path.read_bytes())
            request = parse(body)
            if request.command != "DEL":
                raise CniError(7, f"CNI_COMMAND: {request.command}, expected DEL")
        except (OSError, msgspec.DecodeError, CniError) as error:
            log.error("%s: %s; moved aside to %s%s", path, error, path.name, MALFORMED)
            with contextlib.suppress(OSError):
                path.rename(path.with_name(path.name + MALFORMED))
        else:
            yield path, request


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
