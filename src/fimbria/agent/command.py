"""`fimbria agent`."""

from __future__ import annotations

import click

from fimbria.sources.flags import config_options, settings_from, sources_from, start_logging


@click.command(context_settings={"max_content_width": 100})
@config_options
def command(config_dir: str | None, config_file: str | None, **flags: str | None) -> None:
    """Run the node's agent. Needs root; its network namespace is the node's."""
    from fimbria.agent.lock import AlreadyRunning
    from fimbria.agent.main import StartError, run_agent
    from fimbria.agent.privileges import NotPrivileged
    from fimbria.sources.errors import KubeconfigError
    from fimbria.sources.options import ConfigError

    sources = sources_from(config_dir, config_file, flags)
    settings = settings_from(sources)
    start_logging(settings.config.debug)
    try:
        run_agent(sources, settings)
    except (AlreadyRunning, KubeconfigError, NotPrivileged, StartError) as error:
        raise click.ClickException(str(error)) from error
    except ConfigError as error:
        raise click.ClickException(f"configuration: {error}") from error
