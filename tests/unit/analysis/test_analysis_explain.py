"""Policy map entries and lookups as text."""

from __future__ import annotations

from fimbria.analysis.explain import entry_text, hit_text
from fimbria.datapath.abi import PolicyEntry, PolicyEntryFlags, PolicyKey, RuleIds
from fimbria.datapath.lookup import Hit


def test_entries() -> None:
    """Direction, peer, ports, and what the entry does."""
    entries = [
        (PolicyKey(5, 80, 6, 17), PolicyEntry(17)),
        (PolicyKey(0, 80, 6, 0x80 | 14), PolicyEntry(18, flags=PolicyEntryFlags.DENY)),
        (PolicyKey(0, 0, 0, 0), PolicyEntry(19, flags=PolicyEntryFlags.PASS)),
        (PolicyKey(5, 8, 1, 17), PolicyEntry(20, proxy_port=10_080)),
    ]
    assert [entry_text(key, entry) for key, entry in entries] == [
        "ingress identity 5 TCP 80 -> allow, rule 17",
        "egress any identity TCP 80-87 -> deny, rule 18",
        "ingress any identity ANY -> pass, rule 19",
        "ingress identity 5 ICMP type 8 -> redirect to port 10080, rule 20",
    ]


def test_lookups() -> None:
    """Without an entry the text says whether that lets pass."""
    key, entry = PolicyKey(5, 80, 6, 17), PolicyEntry(17)
    hit = Hit(0, 17, 17, True, key, entry)
    assert hit_text(hit) == "ingress identity 5 TCP 80 -> allow, rule 17"
    assert hit_text(Hit(-133)) == "no entry matches"
    assert hit_text(Hit(0, RuleIds.ALLOW_ALL)) == "no entry decides, and nothing denies"
    assert hit_text(Hit(0, enforced=False)) == "nothing is enforced in this direction"
