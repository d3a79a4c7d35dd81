"""Our kinds at an API server that is not ours: CustomResourceDefinitions, made where missing.

The definitions are those that the embedded server has, so a manifest is checked alike by both. A
definition that is there, from an earlier version or from Cilium, is left as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from fimbria.apiserver.kinds import definitions
from fimbria.sources.errors import KubeError, is_already_exists, is_not_found

if TYPE_CHECKING:
    from fimbria.sources.kube import KubeClient

PAUSE = 0.1
PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

log = logging.getLogger(__name__)


async def register(client: KubeClient) -> list[str]:
    """Create the definitions that are missing; return their names once all kinds are served.

    Raises KubeError, KubeUnreachable.
    """
    made = [
        definition["metadata"]["name"]
        for definition in definitions()
        if await _make(client, definition)
    ]
    for definition in definitions():
        spec = definition["spec"]
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        while definition["metadata"]["name"] in made:
            with contextlib.suppress(KubeError):
                await client.request("GET", path, {"limit": "1"})
                break
            await asyncio.sleep(PAUSE)
    return made


async def _make(client: KubeClient, definition: dict[str, object]) -> bool:
    """Create a definition; False if it is there."""
    meta = definition["metadata"]
    assert isinstance(meta, dict)
    try:
        await client.request("GET", f"{PATH}/{meta['name']}")
    except KubeError as error:
        if not is_not_found(error):
            raise
    else:
        return False
    try:
        await client.request("POST", PATH, body=definition)
    except KubeError as error:
        if not is_already_exists(error):
            raise
    return True
