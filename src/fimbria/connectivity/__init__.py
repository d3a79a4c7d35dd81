"""Prove that a cluster's network does what its policies say.

`places` says which pods there are and what runs in them, `scenarios` which policies are applied
and what must then be reachable, `runner` brings both together on a `cluster`, `report` tells.
"""
