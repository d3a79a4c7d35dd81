"""The datapath seen from Python: its ABI, what it decides, and what it reports."""
