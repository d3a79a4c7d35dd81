"""The node's agent: watches the API, computes map contents, applies them, serves CNI and CLI."""
