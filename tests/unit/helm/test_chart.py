"""The chart, through the real Helm engine and the schemas of Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

CHART = Path(__file__).resolve().parents[3] / "helm/bayplan"
EXTERNAL = {
    "replicas": 3,
    "etcd": {"endpoints": ["https://etcd-0:2379", "https://etcd-1:2379"], "secret": "etcd-client"},
}


def rendered(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    chart = helm_python.Chart.load(CHART)
    manifests = chart.render(values, name="bay", namespace="fleet")
    return [
        document
        for path, text in manifests.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (d for d in documents if d["kind"] == kind)
    return found


def test_it_lints_without_a_remark() -> None:
    """Warnings count as errors; a missing icon is only a recommendation."""
    report = helm_python.lint(CHART, strict=True)
    messages = [m for m in report["messages"] if "icon is recommended" not in str(m)]
    assert messages == []


@pytest.mark.parametrize(
    "values",
    [
        None,
        {"agent": {"enabled": False}},
        {"controller": EXTERNAL, "metrics": {"annotations": True}},
        {"imagePullSecrets": [{"name": "pull"}], "agent": {"nodeSelector": {"disk": "ssd"}}},
    ],
    ids=["defaults", "no agents", "external etcd", "pull secret"],
)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_every_manifest_is_valid(values: dict[str, Any] | None, version: str) -> None:
    """Strictly: a field Kubernetes does not know is an error."""
    documents = rendered(values)
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_managed_etcd_belongs_to_one_controller() -> None:
    """Three controllers without an etcd of their own would be three clusters."""
    with pytest.raises(helm_python.HelmError, match=r"needs controller\.etcd\.endpoints"):
        rendered({"controller": {"replicas": 3}})


def test_a_misspelt_value_is_refused() -> None:
    """The values have a schema."""
    with pytest.raises(helm_python.HelmError, match="replica"):
        rendered({"controller": {"replica": 3}})


def test_the_agent_sees_its_host_and_the_controller_nothing() -> None:
    """Least privilege for the one, the host's own namespaces for the other."""
    documents = rendered()
    agent = one(documents, "DaemonSet")["spec"]["template"]["spec"]
    assert agent["hostPID"]
    assert agent["hostNetwork"]
    controller = one(documents, "StatefulSet")["spec"]["template"]["spec"]
    assert controller["securityContext"]["runAsNonRoot"]
    security = controller["containers"][0]["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"]
