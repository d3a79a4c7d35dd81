"""Whatever a runtime hands to the CNI plugin, the answer is a result or an error document."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fimbria.cni import plugin
from fimbria.cni.plugin import CniError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "PATH"]
)
VALUES = st.sampled_from(["ADD", "DEL", "GC", "eth0", "a", "/x", ""]) | st.text(string.printable)


def outcome(raw: bytes, environ: dict[bytes, bytes]) -> tuple[str, Any]:
    """What the plugin does up to the request: ("error", document) or ("request", document)."""
    try:
        env = plugin.read_environment(environ)
        text, config = plugin.read_config(raw)
        plugin.check(env, str(config.get("cniVersion") or "0.2.0"))
    except CniError as error:
        return "error", json.loads(error.document("1.1.0"))
    return "request", json.loads(plugin.encode(env, text))


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_stdin(raw: bytes) -> None:
    """Any bytes on stdin give a configuration or an error that names stdin or a field."""
    kind, document = outcome(
        raw, {b"CNI_COMMAND": b"DEL", b"CNI_CONTAINERID": b"a", b"CNI_IFNAME": b"eth0"}
    )
    if kind == "error":
        assert document["code"] in (1, 6, 7)
        assert document["msg"]
    else:
        assert document["config"] == json.loads(raw)


@given(st.dictionaries(NAMES, VALUES))
def test_any_environment(environ: dict[str, str]) -> None:
    """Any variables give an error naming one of them, or arrive at the agent unchanged."""
    kind, document = outcome(
        b'{"cniVersion": "1.1.0"}', {k.encode(): v.encode() for k, v in environ.items()}
    )
    if kind == "error":
        assert document["code"] == 4
        assert "CNI_" in document["msg"]
    else:
        wanted = {k: v for k, v in environ.items() if k.startswith("CNI_")}
        assert document["env"] == wanted
        assert "/" not in environ.get("CNI_CONTAINERID", "")


@given(st.dictionaries(st.binary(min_size=1), st.binary()))
def test_any_bytes_in_the_environment(environ: dict[bytes, bytes]) -> None:
    """Variables of other programs, however broken, do not matter; ours must be text."""
    kind, document = outcome(b"{}", environ)
    assert kind == "error"
    assert document["code"] == 4


@given(st.text())
def test_parser_agrees_with_json(text: str) -> None:
    """The small parser takes what the standard library takes, objects only, without NaN."""
    try:
        wanted = json.loads(text, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        wanted = None
    try:
        found = plugin.parse_object(text)
    except ValueError:
        found = None
    assert found == (wanted if isinstance(wanted, dict) else None)
