"""Which process a container becomes."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.lab import images
from fimbria.lab.images import NoSuchImage

POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}},
    "spec": {"nodeName": "node1"},
}


def become(**container: Any) -> images.Process:
    return images.process({"name": "c", **container}, POD, {"FIMBRIA_POD_IP": "10.0.0.1"})


def test_a_command_is_run_as_it_is() -> None:
    """command and args are the process's words; $(NAME) is expanded as Kubernetes does."""
    found = become(
        command=["sh", "-c"],
        args=["echo $(WHO) $$(WHO) $(NONE)"],
        env=[{"name": "WHO", "value": "me"}],
        workingDir="/tmp",
    )
    assert found.command == ("sh", "-c", "echo me $(WHO) $(NONE)")
    assert found.directory == "/tmp"
    assert found.environment["WHO"] == "me"


def test_environment_from_fields() -> None:
    """fieldRef gives the pod's own name, node, address and labels."""
    names = {"N": "metadata.name", "H": "spec.nodeName", "I": "status.podIP"}
    names["L"] = "metadata.labels['app']"
    env = [{"name": k, "valueFrom": {"fieldRef": {"fieldPath": path}}} for k, path in names.items()]
    found = become(command=["true"], env=env).environment
    assert [found[name] for name in "NHIL"] == ["p", "node1", "10.0.0.1", "x"]


def test_an_unknown_field_is_named() -> None:
    """What the lab cannot give is an error that names the variable."""
    env = [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]
    with pytest.raises(ValueError, match="env S"):
        become(command=["true"], env=env)


@pytest.mark.parametrize(
    ("image", "app"),
    [
        ("fimbria/echo", "echo"),
        ("docker.io/cilium/starwars:latest", "starwars"),
        ("quay.io/cilium/json-mock:v1.3.8@sha256:abc", "echo"),
        ("docker.io/tgraf/netperf", "sleep"),
        ("registry.k8s.io/pause:3.9", "sleep"),
        ("nginx:1.27", "echo"),
        ("localhost:5000/fimbria/echo:1", "echo"),
    ],
)
def test_builtin_images(image: str, app: str) -> None:
    """Registry, tag and digest do not matter for what stands in for an image."""
    words = become(image=image).command
    assert app in words


def test_ports_come_from_the_manifest() -> None:
    """An application listens where containerPort says, else on its usual port."""
    ports = [{"containerPort": 81}, {"containerPort": 53, "protocol": "UDP"}]
    assert become(image="fimbria/echo", ports=ports).command[-2:] == ("tcp:81", "udp:53")
    assert become(image="fimbria/echo").command[-1] == "tcp:8080"


def test_an_unknown_image_says_what_to_do() -> None:
    """Nothing is pulled: an image without stand-in needs a command."""
    with pytest.raises(NoSuchImage, match="give the container a command"):
        become(image="example.com/app:1")
