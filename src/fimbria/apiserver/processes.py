"""etcd and kube-apiserver as child processes: their flags, credentials, and their start in order.

Nothing here is for more than one machine: both listen on loopback with ports of their own choice,
and hold their data in one directory. They end with their parent, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.apiserver.kinds import SERVICE_NETWORK
from fimbria.apiserver.tls import Certificates, make_ca_and_cert

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 3.0
NO_CONTROLLER = ("ServiceAccount", "TaintNodesByCondition")
"""Admission plugins that wait for, or leave work to, kube-controller-manager."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Paths of the two programs."""

    kube_apiserver: Path
    etcd: Path


@dataclass(frozen=True, slots=True)
class Files:
    """What kube-apiserver reads at its start."""

    certificates: Certificates
    tokens: Path
    service_account_key: Path


def find(kube_apiserver: Path, etcd: Path | None) -> Binaries:
    """The programs; etcd, unless it is given, beside kube-apiserver or on PATH.

    Raises ValueError naming what cannot be run.
    """
    beside = kube_apiserver.parent / "etcd"
    found = etcd or (beside if beside.exists() else None) or shutil.which("etcd")
    if not found:
        raise ValueError(f"etcd: neither beside {kube_apiserver} nor on PATH: name it with --etcd")
    for path in (kube_apiserver, Path(found)):
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ValueError(f"{path}: is no program that can be run")
    return Binaries(kube_apiserver.absolute(), Path(found).absolute())


def prepare(directory: Path, tokens: Mapping[str, str], hosts: Sequence[str]) -> Files:
    """Make certificates for `hosts`, the table of `tokens` (token → user), and the signing key."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    table = directory / "tokens.csv"
    lines = [f'{token},{user},{user},"system:masters"\n' for token, user in tokens.items()]
    _write(table, "".join(lines).encode())
    key = directory / "service-account.key"
    if not key.exists():
        _write(key, _signing_key())
    return Files(make_ca_and_cert(directory, hosts), table, key)


def etcd_command(binary: Path, directory: Path, client: int, peer: int) -> list[str]:
    """How etcd is started: one member, for clients on the port `client` of loopback."""
    clients, peers = f"http://{LOOPBACK}:{client}", f"http://{LOOPBACK}:{peer}"
    return [
        str(binary), "--data-dir", str(directory / "etcd"),
        "--listen-client-urls", clients, "--advertise-client-urls", clients,
        "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
        "--initial-cluster", f"default={peers}",
    ]  # fmt: skip


def kube_apiserver_command(binary: Path, files: Files, etcd: int, port: int) -> list[str]:
    """How kube-apiserver is started: on `port` of loopback, over the etcd of port `etcd`."""
    key = str(files.service_account_key)
    return [
        str(binary), "--etcd-servers", f"http://{LOOPBACK}:{etcd}",
        "--bind-address", LOOPBACK, "--advertise-address", LOOPBACK, "--secure-port", str(port),
        "--endpoint-reconciler-type", "none",
        "--cert-dir", str(files.tokens.parent / "certs"),
        "--tls-cert-file", str(files.certificates.certificate),
        "--tls-private-key-file", str(files.certificates.key),
        "--token-auth-file", str(files.tokens), "--authorization-mode", "RBAC",
        "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-account-key-file", key, "--service-account-signing-key-file", key,
        "--service-cluster-ip-range", str(SERVICE_NETWORK),
        "--disable-admission-plugins", ",".join(NO_CONTROLLER),
        "--allow-privileged",
    ]  # fmt: skip


@asynccontextmanager
async def child(command: Sequence[str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A process that ends with the block, and with us; it writes to our standard error."""
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "KILL", *command,
        stdin=asyncio.subprocess.DEVNULL, stdout=2,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _signing_key() -> bytes:
    """PEM of an elliptic-curve key, in the form that kube-apiserver takes for both its uses."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
