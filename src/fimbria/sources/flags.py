"""Configuration as command line flags: one `--<key>` per key, and the two ways to name files."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimbria.sources import config
from fimbria.sources.config import plain
from fimbria.sources.options import DESCRIPTION, FIELDS, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--config-dir`, `--config` and a flag per key; it gets them all as keywords.

    Hand the keywords to `settings_from`.
    """
    for key, one in reversed(FIELDS.items()):
        shown = plain(key, one.default)
        text = f"{one.metadata[DESCRIPTION]}  [default: {shown or 'none'}]"
        function = click.option(f"--{key}", key.replace("-", "_"), metavar="VALUE", help=text)(
            function
        )
    function = click.option("--config", "config_file", metavar="FILE", help="YAML map of keys.")(
        function
    )
    return click.option("--config-dir", metavar="DIR", help="Folder with one file per key.")(
        function
    )


def sources_from(
    config_dir: str | None, config_file: str | None, flags: dict[str, str | None]
) -> list[config.Source]:
    """Return the sources that command line and environment name, the weakest first.

    A file that cannot be read ends the program with one line.
    """
    sources: list[config.Source] = []
    try:
        if config_dir:
            sources.append(config.from_directory(Path(config_dir)))
        if config_file:
            sources.append(config.from_file(Path(config_file)))
    except ConfigError as error:
        raise click.ClickException(f"configuration: {error}") from error
    sources.append(config.from_environment(os.environ))
    given = {key.replace("_", "-"): text for key, text in flags.items() if text is not None}
    sources.append(config.Source("flags", given))
    return sources


def settings_from(sources: Sequence[config.Source]) -> config.Settings:
    """Return the checked configuration; a mistake ends the program with one line."""
    try:
        return config.build(sources)
    except ConfigError as error:
        raise click.ClickException(f"configuration: {error}") from error


def start_logging(debug: bool) -> None:
    """Log to standard error, one line per event."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.DEBUG if debug else logging.INFO, format=LOG_FORMAT
    )
    if debug:
        logging.getLogger("asyncio").setLevel(logging.INFO)
