"""`fimbria connectivity test`: prove that the network does what its policies say."""

from __future__ import annotations

import click


@click.group()
def group() -> None:
    """Prove that the network works."""
