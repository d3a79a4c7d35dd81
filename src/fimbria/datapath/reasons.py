"""What the numbers of drop reasons mean: the words of the Hubble API and of Cilium's monitor.

Beside the drops, the other reasons under which cilium_metrics counts.
"""

from __future__ import annotations

REASONS = {
    0: "Success",
    64: "Shadow policy would deny",
    65: "Shadow policy would allow",
    132: "Invalid source ip",
    133: "Policy denied",
    134: "Invalid packet",
    135: "CT: Truncated or invalid header",
    136: "Fragmentation needed",
    137: "CT: Unknown L4 protocol",
    139: "Unsupported L3 protocol",
    140: "Missed tail call",
    141: "Error writing to packet",
    142: "Unknown L4 protocol",
    147: "Error retrieving tunnel key",
    150: "Unknown L3 target address",
    151: "Stale or unroutable IP",
    155: "CT: Map insertion failed",
    156: "Invalid IPv6 extension header",
    157: "IP fragmentation not supported",
    160: "No tunnel/encapsulation endpoint (datapath BUG!)",
    164: "Host unreachable",
    166: "Unsupported L2 protocol",
    169: "FIB lookup failed",
    170: "Encapsulation traffic is prohibited",
    171: "Invalid identity",
    172: "Unknown sender",
    175: "First logical datagram fragment not found",
    176: "Forbidden ICMPv6 message",
    178: "Socket lookup failed",
    181: "Policy denied by denylist",
    183: "Invalid VNI",
    196: "TTL exceeded",
    202: "Host datapath not ready",
    203: "Endpoint policy program not available",
}
