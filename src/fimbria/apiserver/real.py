"""A real kube-apiserver in place of the embedded server: same command, listeners and credentials.

    listeners ── forward ──► kube-apiserver ──► etcd
                                  ▲
                                  └── CustomResourceDefinitions, housekeeping

The two processes are on loopback ports that nobody else is told of. When either ends, or does not
come up, the server ends with them, and whoever keeps it running starts the three anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from typing import TYPE_CHECKING

from fimbria.apiserver import forward, processes
from fimbria.apiserver.auth import read_tokens
from fimbria.apiserver.housekeeping import Housekeeper
from fimbria.apiserver.listeners import ListenError, address, bind
from fimbria.apiserver.main import ApiServerConfig, ConfigError, announce, own_token
from fimbria.apiserver.registration import register
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.kube import KubeClient
from fimbria.sources.kubeconfig import Connection

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 60.0
PAUSE = 0.1
HOSTS = ("localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default.svc")


def serve(config: ApiServerConfig, kube_apiserver: Path, etcd: Path | None) -> None:
    """Run kube-apiserver and etcd until a signal ends it. Raises ConfigError."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    if config.tls_cert or config.tls_key:
        raise ConfigError("--tls-cert and --tls-key: a kube-apiserver gets a certificate of ours")
    sockets: list[socket.socket] = []
    try:
        binaries = processes.find(kube_apiserver, etcd)
        config.data.parent.mkdir(parents=True, exist_ok=True)
        for listen in config.listen:
            sockets.append(bind(listen))
        _run_until_stopped(config, binaries, sockets)
    except (ListenError, ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    finally:
        for listener in sockets:
            listener.close()


def _run_until_stopped(
    config: ApiServerConfig, binaries: processes.Binaries, sockets: list[socket.socket]
) -> None:
    try:
        asyncio.run(_run(config, binaries, sockets))
    except* ConfigError as errors:
        raise errors.exceptions[0] from None


async def _run(
    config: ApiServerConfig, binaries: processes.Binaries, sockets: list[socket.socket]
) -> None:
    tokens = read_tokens(config.token_file or own_token(config.data.parent))
    token = next(iter(tokens))
    directory = config.data.parent / "kube-apiserver"
    files = processes.prepare(directory, tokens, _hosts(sockets))
    tls = ssl.create_default_context(cafile=str(files.certificates.authority))
    client_port, peer_port, port = processes.free_ports(3)
    store = processes.etcd_command(binaries.etcd, directory, client_port, peer_port)
    api = processes.kube_apiserver_command(binaries.kube_apiserver, files, client_port, port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    base = f"https://{processes.LOOPBACK}:{port}"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        processes.child(store) as etcd_process,
        processes.child(api) as api_process,
        KubeClient(Connection(base, tls=tls, headers=headers)) as client,
        contextlib.AsyncExitStack() as forwarders,
        asyncio.TaskGroup() as tasks,
    ):

        async def work() -> None:
            await _start(client)
            for listener in sockets:
                await forwarders.enter_async_context(await forward.serve(listener, port, tls))
            authority = files.certificates.authority.read_bytes()
            announce(config, [address(one) for one in sockets], authority, token)
            await Housekeeper(client).run()

        running = [
            tasks.create_task(_watch(etcd_process, binaries.etcd)),
            tasks.create_task(_watch(api_process, binaries.kube_apiserver)),
            tasks.create_task(work()),
        ]
        await stop.wait()
        for task in running:
            task.cancel()


async def _watch(process: asyncio.subprocess.Process, binary: Path) -> None:
    code = await process.wait()
    raise ConfigError(f"{binary} ended with {code}: see what it wrote above")


async def _start(client: KubeClient) -> None:
    """Return when the server is ready and has our kinds."""
    try:
        async with asyncio.timeout(START_SECONDS):
            await _until_ready(client)
            await register(client)
    except TimeoutError:
        raise ConfigError(f"kube-apiserver was not ready after {START_SECONDS:g} s") from None
    except (KubeError, KubeUnreachable) as error:
        raise ConfigError(f"kube-apiserver: {error}") from error


def _hosts(sockets: list[socket.socket]) -> list[str]:
    """What the certificate is for: the listeners' addresses and the usual names."""
    bound = {str(s.getsockname()[0]) for s in sockets if s.family != socket.AF_UNIX}
    return sorted({*HOSTS, *bound} - {"0.0.0.0", "::"})


async def _until_ready(client: KubeClient) -> None:
    while True:
        with contextlib.suppress(KubeError, KubeUnreachable):
            await client.request("GET", "/readyz")
            return
        await asyncio.sleep(PAUSE)
