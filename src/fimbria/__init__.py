"""Fimbria: a Kubernetes network in Python on eBPF."""
