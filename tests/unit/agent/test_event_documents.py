"""Events as documents: what a verdict means, and whose it is."""

from __future__ import annotations

from typing import Any

from fimbria.agent.eventdoc import action, document
from fimbria.datapath.abi import DropReason, Event, EventFlags, EventType


class Names:
    """Nothing is known."""

    def interface(self, ifindex: int) -> str:
        return ""

    def pod(self, address: str) -> str:
        return ""

    def labels(self, identity: int) -> tuple[str, ...]:
        return ()

    def rule(self, event: Event) -> dict[str, Any]:
        return {"rule": event.rule}


def read(**fields: Any) -> dict[str, Any]:
    event = Event(saddr=bytes(16), daddr=bytes(16), **fields)
    return document(event, Names(), lambda ns: ns / 1e9)


def test_verdicts() -> None:
    """Allow, deny, redirect, and what audit mode let pass."""
    kind = EventType.POLICY_VERDICT
    actions = [
        action(Event(type=kind, verdict=verdict, flags=flags))
        for verdict, flags in ((0, 0), (-133, 0), (10_080, 0), (0, EventFlags.AUDITED))
    ]
    assert actions == ["allow", "deny", "redirect", "audit"]


def test_redirect() -> None:
    """A redirect's verdict has the proxy's port; the drop behind it names the rule."""
    found = read(type=EventType.POLICY_VERDICT, verdict=10_080, rule=20)
    assert (found["action"], found["proxy_port"]) == ("redirect", 10_080)
    drop = read(type=EventType.DROP, subtype=DropReason.NO_PROXY, rule=20)
    assert drop["explanation"] == {"rule": 20}


def test_shadow() -> None:
    """A shadow policy's verdict is marked, with the reason for which it would have dropped."""
    found = read(type=EventType.POLICY_VERDICT, verdict=-DropReason.POLICY, flags=EventFlags.SHADOW)
    assert (found["shadow"], found["action"]) == (True, "deny")
    assert found["reason"] == "Policy denied"
    assert "shadow" not in read(type=EventType.POLICY_VERDICT, verdict=-DropReason.POLICY)
