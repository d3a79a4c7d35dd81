"""The embedded Kubernetes API: the part that Fimbria and its users need, over SQLite."""
