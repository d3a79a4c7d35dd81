"""`fimbria operator`."""

from __future__ import annotations

import click

from fimbria.sources.errors import KubeconfigError
from fimbria.sources.flags import config_options, settings_from, sources_from, start_logging


@click.command()
@config_options
def command(config_dir: str | None, config_file: str | None, **flags: str | None) -> None:
    """Run the cluster's operator: pod CIDRs and garbage collection. Needs no privileges."""
    import asyncio

    from fimbria.operator.main import run_operator

    try:
        settings = settings_from(sources_from(config_dir, config_file, flags))
        start_logging(settings.config.debug)
        asyncio.run(run_operator(settings.config))
    except KubeconfigError as error:
        raise click.ClickException(str(error)) from error
