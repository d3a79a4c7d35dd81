"""Which labels have which number, as identities come, change and go."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fimbria.agent.identities import Identities

if TYPE_CHECKING:
    from fimbria.sources.kube import KubeClient

WEB, DB = ("k8s:app=web",), ("k8s:app=db",)


def identities() -> Identities:
    """What the API has told so far: nothing. Nobody is asked for a new one."""
    return Identities(cast("KubeClient", None))


def test_the_lowest_of_two_counts() -> None:
    """Two objects can have the same labels; all nodes take the lower, and the other after it."""
    known = identities()
    known.learn(301, WEB)
    known.learn(300, WEB)
    known.learn(300, WEB)
    assert known.number(WEB) == 300
    known.forget(300)
    assert known.number(WEB) == 301
    known.forget(301)
    assert known.number(WEB) is None
    known.forget(301)
    assert not known.known


def test_other_labels() -> None:
    """A number that has other labels now leaves the old ones to whoever else has them."""
    known = identities()
    known.learn(300, WEB)
    known.learn(301, WEB)
    known.learn(300, DB)
    assert (known.number(WEB), known.number(DB)) == (301, 300)
    assert known.known == {300: DB, 301: WEB}
