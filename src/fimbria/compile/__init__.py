"""From what the node knows to the exact bytes its maps should hold. Pure: no I/O, no clock."""
