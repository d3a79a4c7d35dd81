"""Kubeconfigs: what a connection takes from them, and errors that name file and field."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.sources import kubeconfig
from fimbria.sources.errors import KubeconfigError

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    file = path / "config"
    file.write_text(
        json.dumps(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return file


def test_unix_socket_with_token(tmp_path: Path) -> None:
    """unix:///path is an API on this machine; the token goes with every request."""
    found = kubeconfig.load(write(tmp_path, {"server": "unix:///run/api.sock"}, {"token": "abc"}))
    assert found.socket == "/run/api.sock"
    assert found.headers == {"Authorization": "Bearer abc"}
    assert found.tls is None


def test_http_and_token_file(tmp_path: Path) -> None:
    """A token file is named relative to the kubeconfig."""
    found = kubeconfig.load(
        write(tmp_path, {"server": "http://127.0.0.1:8080/"}, {"tokenFile": "token"})
    )
    assert (found.base, found.socket) == ("http://127.0.0.1:8080", None)
    assert found.token_file == tmp_path / "token"


def test_https_verifies_unless_told_not_to(tmp_path: Path) -> None:
    """TLS is verified; only insecure-skip-tls-verify turns that off."""
    import ssl

    found = kubeconfig.load(write(tmp_path, {"server": "https://127.0.0.1:6443"}, {}))
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    cluster = {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}
    found = kubeconfig.load(write(tmp_path, cluster, {}))
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({}, {}, "clusters[].cluster.server is missing"),
        ({"server": "ftp://x"}, {}, "not http, https or unix"),
        ({"server": "https://x", "certificate-authority": "no.crt"}, {}, "certificate-authority"),
        ({"server": "https://x", "certificate-authority-data": "%%"}, {}, "is not base64"),
        (
            {
                "server": "https://x",
                "certificate-authority-data": base64.b64encode(b"no").decode(),
            },
            {},
            "certificate-authority cannot be used",
        ),
        ({"server": "https://x"}, {"exec": {"command": "x"}}, "exec and auth-provider"),
    ],
)
def test_mistakes_name_the_field(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], words: str
) -> None:
    """What cannot be used is an error with file and field."""
    file = write(tmp_path, cluster, user)
    with pytest.raises(KubeconfigError) as caught:
        kubeconfig.load(file)
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "a: [", "contexts: 7\ncurrent-context: x\n", "{}"])
def test_what_is_no_kubeconfig(tmp_path: Path, text: str) -> None:
    """Other documents are refused by name."""
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(KubeconfigError, match="config"):
        kubeconfig.load(file)
    with pytest.raises(KubeconfigError, match="missing"):
        kubeconfig.load(tmp_path / "missing")
