"""Configuration: many sources, one typed result, and errors that name key, source and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fimbria.cli.main import root
from fimbria.sources import config
from fimbria.sources.config import Source, build
from fimbria.sources.options import FIELDS, Config, ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    """The folder, the file, the environment and the flags override each other in that order."""
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "tunnel-port").write_text("1111\n")
    (folder / "cluster-name").write_text("one")
    (folder / "..data").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text("tunnel-port: 2222\nenable-ipv6: true\ndevices: [eth0, eth1]\n")
    settings = build(
        [
            config.from_directory(folder),
            config.from_file(file),
            config.from_environment({"CILIUM_TUNNEL_PORT": "3333", "CILIUM_SOCK": "/x", "A": "b"}),
            Source("flags", {"mtu": "9000"}),
        ]
    )
    assert settings.config.tunnel_port == 3333
    assert settings.config.cluster_name == "one"
    assert settings.config.enable_ipv6
    assert settings.config.devices == ("eth0", "eth1")
    assert settings.config.mtu == 9000
    assert settings.sources["tunnel-port"] == "environment"
    assert settings.sources["mtu"] == "flags"
    assert "ipam" not in settings.sources


def test_a_configmap_manifest_is_read_like_its_data(tmp_path: Path) -> None:
    """`kubectl get cm cilium-config -o yaml` can be given as it is."""
    file = tmp_path / "cm.yaml"
    file.write_text("apiVersion: v1\nkind: ConfigMap\ndata:\n  routing-mode: native\n")
    assert build([config.from_file(file)]).config.routing_mode == "native"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rooting-mode": "native"}, ["rooting-mode", "did you mean routing-mode", "test"]),
        ({"routing-mode": "bgp"}, ["routing-mode", "bgp", "tunnel, native"]),
        ({"enable-ipv6": "yes"}, ["enable-ipv6", "'yes'", "true nor false"]),
        ({"tunnel-port": "eighty"}, ["tunnel-port", "no whole number"]),
        ({"tunnel-port": "70000"}, ["tunnel-port", "1 to 65535"]),
        ({"bpf-ct-timeout-regular-any": "soon"}, ["bpf-ct-timeout-regular-any", "no duration"]),
        ({"kube-proxy-replacement": "true"}, ["kube-proxy-replacement", "not in this version"]),
        ({"enable-ipv4": "false"}, ["enable-ipv4", "no address"]),
        ({"auto-direct-node-routes": "true"}, ["auto-direct-node-routes", "native"]),
        ({"enable-endpoint-routes": "true"}, ["enable-host-legacy-routing"]),
        ({"cni-chaining-mode": "portmap"}, ["cni-chaining-mode", "enable-host-legacy-routing"]),
        ({"mtu": "900"}, ["mtu", "1280"]),
        ({"cluster-pool-ipv4-cidr": "10.0.0.0/33"}, ["cluster-pool-ipv4-cidr", "no CIDR"]),
        ({"cluster-pool-ipv4-cidr": "fd00::/64"}, ["other address family"]),
        ({"cluster-pool-ipv4-mask-size": "4"}, ["cluster-pool-ipv4-mask-size", "does not fit"]),
        ({"ipv4-native-routing-cidr": "fd00::/64"}, ["ipv4-native-routing-cidr", "other address"]),
        ({"identity-allocation-mode": "kvstore"}, ["identity-allocation-mode", "crd"]),
    ],
)
def test_a_mistake_is_named(values: dict[str, str], words: list[str]) -> None:
    """What cannot be had is an error that names the key and what would be right."""
    with pytest.raises(ConfigError) as caught:
        build([Source("test", values)])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "a: {b: c}\n", "a: [\n", "\xff\xfe".encode("latin-1").decode("latin-1")]
)
def test_a_file_that_is_no_map_of_values_is_refused(tmp_path: Path, text: str) -> None:
    """Malformed files are errors, not empty configurations."""
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        build([config.from_file(file)])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere stands in the error."""
    for read in (config.from_file, config.from_directory):
        with pytest.raises(ConfigError, match="nowhere"):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("5s", 5), ("1h30m", 5400), ("250ms", 0.25), ("1.5m", 90)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations are written as Go writes them, or as seconds."""
    assert config.duration(text) == seconds


def test_the_document_shows_requested_and_effective() -> None:
    """`config get` shows what was asked for beside what is in force, and who asked."""
    settings = build([Source("flags", {"mtu": "1400"})])
    shown = config.document(settings, {"mtu": 1350})
    assert shown["mtu"] == {"requested": 1400, "effective": 1350, "source": "flags"}
    assert shown["ipam"]["source"] == "default"
    assert set(shown) == set(FIELDS)


def test_every_key_survives_being_written_as_text() -> None:
    """A default, written as a ConfigMap would hold it, reads back as itself."""
    for key, one in FIELDS.items():
        assert config.convert(one.default, config.plain(key, one.default)) == one.default
    assert Config() == build([]).config.__class__()


def test_unreadable_files_end_the_program_with_one_line(tmp_path: Path) -> None:
    """The agent and the operator name a configuration file that they cannot read."""
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    (tmp_path / "data").write_text("kind: ConfigMap\ndata: [1]\n")
    (tmp_path / "deep").write_text("[" * 5000)
    for name in ("binary", "data", "deep", "missing"):
        for command in ("agent", "operator"):
            result = CliRunner().invoke(root, [command, "--config", str(tmp_path / name)])
            assert result.exit_code == 1
            assert f"configuration: {tmp_path / name}: " in result.output
    result = CliRunner().invoke(root, ["agent", "--config-dir", str(tmp_path / "missing")])
    assert (
        result.output
        == f"Error: configuration: {tmp_path / 'missing'}: No such file or directory\n"
    )
