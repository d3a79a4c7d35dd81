"""Whatever comes in from outside the agent: an error of its kind, never something else."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.agent import deletequeue, statefiles
from fimbria.agent.cniresult import CniError, parse, valid_attachments
from fimbria.agent.convert import endpoint_row, identity_number, node_row, policy_document
from fimbria.agent.eventdoc import document
from fimbria.agent.statefiles import EndpointFile, StateFileError
from fimbria.datapath.abi import Event
from fimbria.sources import config
from fimbria.sources.files import ManifestError
from fimbria.sources.files import parse as parse_manifests
from fimbria.sources.options import FIELDS, ConfigError
from fimbria.sources.resources import (
    CiliumEndpoint,
    CiliumIdentity,
    CiliumNode,
    CiliumNodeAddress,
    CiliumNodeIpam,
    CiliumNodeSpec,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    Meta,
    SlimMeta,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
variables = st.dictionaries(
    st.sampled_from(["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]),
    st.sampled_from(["ADD", "DEL", "GC", "", "a=b;c", "K8S_POD_NAME=x"]) | st.text(max_size=20),
)


@given(st.one_of(json_values, st.fixed_dictionaries({"env": variables, "config": json_values})))
def test_cni_requests(body: Any) -> None:
    """Any body is a request or an error of the specification."""
    with suppress(CniError):
        valid_attachments(parse(body).config)


@given(st.binary(max_size=300))
def test_state_files_and_queued_deletions(data: bytes) -> None:
    """Any bytes are a state file or an error that names it; a queue of them is empty."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(data)
        with suppress(StateFileError):
            statefiles.read(path, EndpointFile)
        assert list(deletequeue.pending(Path(folder))) == []


@given(
    st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=12), st.text(max_size=12))
)
def test_configuration(values: dict[str, str]) -> None:
    """Any keys and values are a configuration or a ConfigError that names the key."""
    with suppress(ConfigError):
        config.build([config.Source("fuzz", values)])


@given(st.text(max_size=200))
def test_manifests(text: str) -> None:
    """Any text is a list of manifests or an error with file and line."""
    with suppress(ManifestError):
        parse_manifests(text, "f")


class _Names:
    def interface(self, ifindex: int) -> str:
        return ""

    def pod(self, address: str) -> str:
        return ""

    def labels(self, identity: int) -> tuple[str, ...]:
        return ()

    def rule(self, event: Event) -> dict[str, Any]:
        return {}


@settings(max_examples=300)
@given(st.binary(min_size=Event.SIZE, max_size=Event.SIZE))
def test_events(data: bytes) -> None:
    """Any 88 bytes can be shown as an event."""
    shown = document(Event.unpack(data), _Names(), lambda time: float(time))
    assert shown["saddr"]
    assert shown["daddr"]


@given(st.text(max_size=12), st.integers(-1, 1 << 33), st.lists(st.text(max_size=8), max_size=3))
def test_objects_of_the_api(text: str, number: int, texts: list[str]) -> None:
    """Nonsense in an object's fields is left out, not raised."""
    networking = EndpointNetworking(addressing=[], node=text)
    status = EndpointStatus(identity=EndpointIdentity(number), networking=networking)
    endpoint_row(CiliumEndpoint(SlimMeta(name=text), status), frozenset())
    addresses = [CiliumNodeAddress("InternalIP", one) for one in texts]
    spec = CiliumNodeSpec(addresses=addresses, ipam=CiliumNodeIpam(pod_cidrs=texts))
    assert node_row(CiliumNode(Meta(name=text), spec)).name == text
    identity_number(CiliumIdentity(Meta(name=text), {}))


@given(st.dictionaries(st.text(max_size=10), json_values))
def test_policy_documents(item: dict[str, Any]) -> None:
    """A policy with whatever metadata has kind and version afterwards."""
    found = policy_document(item, "NetworkPolicy", "networking.k8s.io/v1")
    assert found["kind"] == "NetworkPolicy"
    assert isinstance(found["metadata"], dict)
