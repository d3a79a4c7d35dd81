"""`fimbria policy validate`: without a cluster, field and line of what cannot be enforced."""

from __future__ import annotations

import json
from pathlib import Path

DEMO = Path(__file__).resolve().parents[3] / "demo"
FQDN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: names
spec:
  endpointSelector: {}
  egress:
    - toFQDNs:
        - matchName: example.org
"""


def test_valid(run) -> None:
    """The demo's policy is valid; what is no policy is passed over."""
    result = run("policy", "validate", str(DEMO))
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()] == ["RESULT", "valid"]


def test_refused(run, tmp_path) -> None:
    """A field that cannot be enforced is named with its line; exit code 1."""
    path = tmp_path / "names.yaml"
    path.write_text(FQDN)
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.output)
    assert finding["field"] == "spec.egress[0].toFQDNs"
    assert finding["line"] in (8, 9)  # the key, or the value below it
    assert finding["reason"]


def test_no_policy(run, tmp_path) -> None:
    """A file without policies, or that is not there, is an error."""
    path = tmp_path / "none.yaml"
    path.write_text("")
    assert run("policy", "validate", str(path)).exit_code == 1
    result = run("policy", "validate", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 1
    assert "missing.yaml" in result.output
