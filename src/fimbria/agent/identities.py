"""Identity numbers for sets of labels, the same on every node, without a coordinator.

The number is a hash of the labels, and the API server's refusal to create an object twice settles
everything else: a CiliumIdentity of that name with our labels is ours already, one with other
labels sends us to the next candidate. Known labels cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fimbria.agent.convert import identity_labels
from fimbria.model.identity import candidate
from fimbria.model.labels import NAMESPACE
from fimbria.sources.errors import KubeError, is_already_exists, is_not_found
from fimbria.sources.resources import CILIUM_IDENTITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.model.labels import Labels
    from fimbria.sources.kube import KubeClient

ATTEMPTS = 64

log = logging.getLogger(__name__)


class NoIdentity(Exception):
    """No number could be had for a set of labels."""


def security_labels(labels: Labels) -> dict[str, str]:
    """Return labels as CiliumIdentity has them: {"k8s:app": "x"}."""
    found: dict[str, str] = {}
    for label in labels:
        key, _, value = label.partition("=")
        found[key] = value
    return found


class Identities:
    """Which labels have which number. The reserved ones are not in here."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._labels: dict[int, Labels] = {}
        self._numbers: dict[Labels, tuple[int, ...]] = {}
        """In order: two for the same labels can come of a removed object; the lowest counts."""
        self._pending: dict[Labels, asyncio.Future[int]] = {}

    @property
    def known(self) -> Mapping[int, Labels]:
        """Return number -> labels."""
        return self._labels

    def learn(self, number: int, labels: Labels) -> None:
        """Note an identity that the API has."""
        if self._labels.get(number) == labels:
            return
        self.forget(number)
        self._labels[number] = labels
        self._numbers[labels] = tuple(sorted((*self._numbers.get(labels, ()), number)))

    def forget(self, number: int) -> None:
        """Note that the API no longer has an identity."""
        labels = self._labels.pop(number, None)
        if labels is None:
            return
        others = tuple(other for other in self._numbers.pop(labels) if other != number)
        if others:
            self._numbers[labels] = others

    def number(self, labels: Labels) -> int | None:
        """Return the number of labels that are known, None otherwise."""
        numbers = self._numbers.get(labels)
        return numbers[0] if numbers else None

    async def resolve(self, labels: Labels) -> int:
        """Return the number of `labels`, created if it is new; raises KubeError, NoIdentity.

        Callers that ask for the same labels at once share one request.
        """
        known = self.number(labels)
        if known is not None:
            return known
        pending = self._pending.get(labels)
        if pending is not None:
            return await asyncio.shield(pending)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending[labels] = future
        try:
            number = await self._create(labels)
        except BaseException as error:
            future.set_exception(
                NoIdentity("cancelled") if isinstance(error, asyncio.CancelledError) else error
            )
            future.exception()  # someone may or may not wait; neither is an error here
            raise
        else:
            future.set_result(number)
            return number
        finally:
            del self._pending[labels]

    async def recreate(self, number: int, labels: Labels) -> None:
        """Put back an identity that was removed while one of our endpoints uses it."""
        try:
            await self._client.create(CILIUM_IDENTITIES, _document(number, labels))
        except KubeError as error:
            if not is_already_exists(error):
                raise
        log.info("identity %d was removed while in use; put back", number)

    async def _create(self, labels: Labels) -> int:
        for attempt in range(ATTEMPTS):
            number = candidate(labels, attempt)
            have = self._labels.get(number)
            if have is not None and have != labels:
                continue
            found = await self._claim(number, labels)
            if found == labels:
                self.learn(number, labels)
                return self._numbers[labels][0]
            if found is not None:
                self.learn(number, found)
        raise NoIdentity(f"no free identity for {', '.join(labels)} after {ATTEMPTS} attempts")

    async def _claim(self, number: int, labels: Labels) -> Labels | None:
        """Create an identity or read the one that is there; None if it went in between."""
        try:
            made = await self._client.create(CILIUM_IDENTITIES, _document(number, labels))
        except KubeError as error:
            if not is_already_exists(error):
                raise
            try:
                made = await self._client.get(CILIUM_IDENTITIES, str(number))
            except KubeError as missing:
                if is_not_found(missing):
                    return None
                raise
        return identity_labels(made)


def _document(number: int, labels: Labels) -> dict[str, object]:
    values = security_labels(labels)
    namespace = values.get(f"k8s:{NAMESPACE}", "")
    meta: dict[str, object] = {"name": str(number)}
    if namespace:
        meta["labels"] = {NAMESPACE: namespace}
    return {"metadata": meta, "security-labels": values}
