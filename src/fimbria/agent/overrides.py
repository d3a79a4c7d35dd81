"""CiliumNodeConfig: configuration keys for some nodes, read once at start.

What was read last is remembered, so that an agent that starts while the API is away has the same
configuration as before.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.agent import statefiles
from fimbria.agent.statefiles import NodeFile, StateFileError
from fimbria.model.labels import LabelSet
from fimbria.model.policy import PolicyError
from fimbria.model.select_parse import kubernetes_key, label_selector
from fimbria.sources import config
from fimbria.sources.config import Settings, Source
from fimbria.sources.errors import KubeError, KubeUnreachable, is_not_found
from fimbria.sources.options import FIELDS
from fimbria.sources.resources import CILIUM_NODE_CONFIGS, NODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fimbria.sources.kube import KubeClient
    from fimbria.sources.resources import CiliumNodeConfig

PATIENCE = 2.0
NAME = "CiliumNodeConfig"

log = logging.getLogger(__name__)


async def with_overrides(
    client: KubeClient, sources: Sequence[Source], settings: Settings
) -> Settings:
    """Return the settings with what CiliumNodeConfigs say about this node.

    Raises ConfigError if what they say is no configuration; an API that does not answer in time
    leaves what was read the last time.
    """
    name = settings.config.node_name
    path = Path(settings.config.state_dir) / statefiles.NODE_FILE
    try:
        async with asyncio.timeout(PATIENCE):
            values = await _read(client, settings.config.k8s_namespace, name)
    except (TimeoutError, KubeUnreachable) as error:
        values = remembered(path).overrides
        log.warning("configuration objects not read, going on as before: %s", error or "timeout")
    else:
        remember(path, name, overrides=values)
    return config.build([*sources, Source(NAME, values)]) if values else settings


def remembered(path: Path) -> NodeFile:
    """Return what the last agent knew of the node; nothing if the file is missing or malformed."""
    try:
        return statefiles.read(path, NodeFile)
    except FileNotFoundError:
        return NodeFile(node_name="")
    except StateFileError as error:
        log.error("%s; moved aside", error)
        path.rename(path.with_name(path.name + statefiles.MALFORMED))
        return NodeFile(node_name="")


def remember(
    path: Path,
    name: str,
    *,
    pod_cidrs: tuple[str, ...] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> None:
    """Note what changed of what the next agent needs to know."""
    old = remembered(path)
    if old.node_name != name:
        old = NodeFile(node_name=name)
    new = NodeFile(
        node_name=name,
        pod_cidrs=old.pod_cidrs if pod_cidrs is None else pod_cidrs,
        overrides=old.overrides if overrides is None else dict(overrides),
    )
    if new != old or not path.exists():
        statefiles.write(path, new)


async def _read(client: KubeClient, namespace: str, node_name: str) -> dict[str, str]:
    try:
        found = (await client.list(CILIUM_NODE_CONFIGS, namespace)).items
        if not found:
            return {}
        node = await client.get(NODES, node_name)
    except KubeError as error:
        if is_not_found(error):
            return {}
        raise KubeUnreachable(str(error)) from error
    labels = LabelSet(f"k8s:{key}={value}" for key, value in (node.metadata.labels or {}).items())
    values: dict[str, str] = {}
    for one in sorted(found, key=lambda one: one.metadata.name):
        if _selects(one, labels):
            values |= _known(one)
    return values


def _selects(one: CiliumNodeConfig, labels: LabelSet) -> bool:
    selector: Any = one.spec.node_selector or {}
    try:
        return label_selector(selector, "spec.nodeSelector", kubernetes_key).matches(labels)
    except PolicyError as error:
        log.warning("%s %s left out: %s", NAME, one.metadata.name, error)
        return False


def _known(one: CiliumNodeConfig) -> dict[str, str]:
    """Return the keys; unknown ones are named and left out: the rest of the node must go on."""
    found = one.spec.defaults or {}
    for key in found.keys() - FIELDS.keys():
        log.warning("%s %s: there is no key %s", NAME, one.metadata.name, key)
    return {key: text for key, text in found.items() if key in FIELDS}
