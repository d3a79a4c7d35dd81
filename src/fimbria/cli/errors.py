"""What a command says when it cannot do its work."""

from __future__ import annotations

import click


class CliError(click.ClickException):
    """One line for the user: what is wrong and what to do next. Exit code 1."""

    def format_message(self) -> str:
        """Return the message on one line, whatever it was made from."""
        return " ".join(self.message.split())
