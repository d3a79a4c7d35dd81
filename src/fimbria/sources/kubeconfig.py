"""Read a kubeconfig into what a connection needs: address, trust, credentials.

Three kinds of server: `https://…`, `http://…`, and our extension `unix:///path` for an API on the
same machine. Files named in a kubeconfig are relative to it. Without a kubeconfig, a pod's service
account is used (the in-cluster form).
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from fimbria.sources.errors import KubeconfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Connection:
    """How to reach an API server.

    `base` has no trailing slash. `socket` is the path of a unix socket, or None. `token_file` is
    read anew from time to time, since projected service account tokens expire.
    """

    base: str
    socket: str | None = None
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=lambda: {})
    token_file: Path | None = None


def load(path: Path | str, context: str | None = None) -> Connection:
    """Read the kubeconfig at `path`; `context` overrides its current-context.

    Raises KubeconfigError naming the file and the field.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(document, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig: it is no mapping")
    reader = _Reader(path, document)  # pyright: ignore[reportUnknownArgumentType]
    return reader.connection(context)


def in_cluster() -> Connection:
    """Return the connection of a pod's service account; KubeconfigError if this is no pod."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host or not (SERVICE_ACCOUNT / "token").exists():
        raise KubeconfigError(
            "no kubeconfig given and this is no pod (KUBERNETES_SERVICE_HOST and a service "
            "account token are missing): name one with --k8s-kubeconfig-path"
        )
    host = f"[{host}]" if ":" in host else host
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return Connection(
        f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(SERVICE_ACCOUNT / "ca.crt")),
        token_file=SERVICE_ACCOUNT / "token",
    )


class _Reader:
    """One kubeconfig document, read field by field so that an error can name the field."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def connection(self, context: str | None) -> Connection:
        name = context or self.document.get("current-context") or self._only("contexts")
        chosen = self._named("contexts", "context", name)
        cluster = self._named("clusters", "cluster", chosen.get("cluster"))
        user = self._named("users", "user", chosen["user"]) if chosen.get("user") else {}
        server = cluster.get("server")
        if not isinstance(server, str) or not server:
            raise self.error("clusters[].cluster.server", "is missing")
        headers: dict[str, str] = {}
        token_file: Path | None = None
        if token := user.get("token"):
            headers["Authorization"] = f"Bearer {token}"
        elif user.get("tokenFile"):
            token_file = self._file(user["tokenFile"])
        elif user.get("username"):
            pair = f"{user['username']}:{user.get('password', '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        elif user.get("exec") or user.get("auth-provider"):
            raise self.error(
                "users[].user", "exec and auth-provider are not supported; use a token"
            )
        parts = urlsplit(server)
        if parts.scheme == "unix":
            return Connection("http://localhost", parts.path, None, headers, token_file)
        if parts.scheme not in ("http", "https"):
            raise self.error("clusters[].cluster.server", f"{server}: not http, https or unix")
        tls = self._tls(cluster, user) if parts.scheme == "https" else None
        return Connection(server.rstrip("/"), None, tls, headers, token_file)

    def error(self, field_name: str, reason: str) -> KubeconfigError:
        return KubeconfigError(f"{self.path}: {field_name} {reason}")

    def _only(self, kind: str) -> str:
        entries: Any = self.document.get(kind)
        if isinstance(entries, list) and len(entries) == 1:  # pyright: ignore[reportUnknownArgumentType]
            return str(entries[0].get("name"))  # pyright: ignore
        raise self.error("current-context", "is missing")

    def _named(self, kind: str, inner: str, name: object) -> dict[str, Any]:
        entries: Any = self.document.get(kind) or []
        if not isinstance(entries, list):
            raise self.error(kind, "is no list")
        for entry in entries:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(entry, dict) and entry.get("name") == name:  # pyright: ignore
                value: Any = entry.get(inner)  # pyright: ignore
                if isinstance(value, dict):
                    return value  # pyright: ignore[reportUnknownVariableType]
        raise self.error(kind, f"has no entry named {name!r}")

    def _file(self, name: str) -> Path:
        return self.path.parent / name

    def _data(self, where: dict[str, Any], key: str) -> bytes | None:
        """Return `key`-data decoded, or the file that `key` names, or None."""
        if inline := where.get(f"{key}-data"):
            try:
                return base64.b64decode(inline, validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise self.error(f"{key}-data", f"is not base64: {error}") from error
        if name := where.get(key):
            try:
                return self._file(name).read_bytes()
            except OSError as error:
                raise self.error(key, f"{name}: {error.strerror}") from error
        return None

    def _tls(self, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
        authority = self._data(cluster, "certificate-authority")
        try:
            context = ssl.create_default_context(
                cadata=authority.decode() if authority is not None else None
            )
        except (ssl.SSLError, ValueError) as error:
            raise self.error("certificate-authority", f"cannot be used: {error}") from error
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = self._data(user, "client-certificate")
        key = self._data(user, "client-key")
        if certificate is not None and key is not None:
            # ssl takes client certificates from files only.
            with tempfile.NamedTemporaryFile(prefix="fimbria-") as file:
                file.write(certificate + b"\n" + key)
                file.flush()
                try:
                    context.load_cert_chain(file.name)
                except ssl.SSLError as error:
                    raise self.error("client-certificate", f"cannot be used: {error}") from error
        return context
