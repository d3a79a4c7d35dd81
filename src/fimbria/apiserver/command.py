"""`fimbria apiserver`: the embedded Kubernetes API from the command line."""

from __future__ import annotations

from pathlib import Path

import click

_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command("apiserver")
@click.option("--data", type=_PATH, default=Path("fimbria.db"), show_default=True,
              help="The SQLite database; made if it is not there.")  # fmt: skip
@click.option("--listen", multiple=True, default=("127.0.0.1:6443",), show_default=True,
              metavar="HOST:PORT|unix:PATH|fd:N",
              help="Where to listen; may be given more than once. TCP is TLS.")  # fmt: skip
@click.option("--token-file", type=_PATH, help="Bearer tokens, one per line: token[,user].")
@click.option("--tls-cert", type=_PATH, help="Server certificate, PEM. Default: self-made.")
@click.option("--tls-key", type=_PATH, help="Its key, PEM.")
@click.option("--kubeconfig-out", type=_PATH, help="Write a kubeconfig for the first listener.")
@click.option("--kube-apiserver", type=_PATH, metavar="PATH",
              help="Run this kube-apiserver, over etcd, in place of our own.")  # fmt: skip
@click.option("--etcd", type=_PATH, metavar="PATH",
              help="The etcd for it. Default: beside it, or on PATH.")  # fmt: skip
@click.option("--ready-fd", type=int, metavar="N", help="Say here when the server can be used.")
def command(
    data: Path,
    listen: tuple[str, ...],
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    kubeconfig_out: Path | None,
    kube_apiserver: Path | None,
    etcd: Path | None,
    ready_fd: int | None,
) -> None:
    """Serve the part of the Kubernetes API that Fimbria needs, over SQLite.

    With --kube-apiserver the whole of it, under the same names and with the same credentials.
    """
    # Loaded here so that `fimbria --help` does not pay for an HTTP server.
    from fimbria.apiserver.main import ApiServerConfig, ConfigError, serve

    config = ApiServerConfig(data, listen, token_file, tls_cert, tls_key, kubeconfig_out, ready_fd)
    try:
        if kube_apiserver:
            from fimbria.apiserver import real

            real.serve(config, kube_apiserver, etcd)
        elif etcd:
            raise click.UsageError("--etcd is for --kube-apiserver")
        else:
            serve(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
