"""The manifests for Kubernetes: valid by its schemas, and a cluster that the replicas' own reader accepts."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from replica.node.config import load_config

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
SCHEMAS = ("1.27", "1.31")
"""The oldest release with probes over gRPC that are stable, and a later one."""


def kustomization() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return found


def resources() -> dict[str, dict[str, Any]]:
    """Every resource with the labels that kustomize gives it and its selectors, by kind and name."""
    labels = kustomization()["labels"][0]["pairs"]
    found = {}
    for name in kustomization()["resources"]:
        resource = yaml.safe_load((FOLDER / name).read_text())
        resource["metadata"]["labels"] = labels
        spec = resource["spec"]
        if resource["kind"] == "Service":
            spec["selector"] = labels
        else:
            spec["selector"] = {"matchLabels": labels}
        if resource["kind"] == "StatefulSet":
            spec["template"]["metadata"]["labels"] = labels
        found[f"{resource['kind']}/{resource['metadata']['name']}"] = resource
    return found


def environment() -> dict[str, str]:
    container = resources()["StatefulSet/synod"]["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"]}


def test_every_manifest_is_named_by_the_kustomization() -> None:
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization()["resources"]) == there


@pytest.mark.parametrize("version", SCHEMAS)
def test_the_manifests_are_valid_by_the_schemas_of_kubernetes(version: str) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("no schemas of Kubernetes: pip install '.[manifests]'")
    import kubernetes_validate

    for resource in resources().values():
        assert kubernetes_validate.validate(resource, version, strict=True).startswith(version)
    broken = resources()["StatefulSet/synod"]
    broken["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_each_pod_is_a_member_under_the_name_that_the_headless_service_gives_it() -> None:
    found = resources()["StatefulSet/synod"]["spec"]
    service = resources()[f"Service/{found['serviceName']}"]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"], "replicas need each other to become ready"
    config = load_config(None, environment=environment() | {"SYNOD_REPLICA": "1"})
    assert [member.replica for member in config.members] == list(range(1, found["replicas"] + 1))
    for pod, member in enumerate(config.members):
        host = f"synod-{pod}.{found['serviceName']}"
        assert (member.peer, member.client) == (f"{host}:7101", f"{host}:7001")
    assert config.bootstrap


def test_the_ports_are_those_where_a_replica_listens() -> None:
    config = load_config(None, environment=environment() | {"SYNOD_REPLICA": "1"})
    listening = {
        address.rpartition(":")[2] for address in (config.listen.peer, config.listen.client, config.listen.metrics)
    }
    container = resources()["StatefulSet/synod"]["spec"]["template"]["spec"]["containers"][0]
    assert {str(port["containerPort"]) for port in container["ports"]} == listening
    assert str(container["readinessProbe"]["grpc"]["port"]) == config.listen.client.rpartition(":")[2]


def test_a_disruption_leaves_a_majority() -> None:
    replicas = resources()["StatefulSet/synod"]["spec"]["replicas"]
    away = resources()["PodDisruptionBudget/synod"]["spec"]["maxUnavailable"]
    assert 2 * (replicas - away) > replicas


def test_data_outlives_a_pod_and_the_replica_is_the_user_of_the_image() -> None:
    spec = resources()["StatefulSet/synod"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert environment()["SYNOD_DATA"].startswith(mounts[claim["metadata"]["name"]])
    recipe = (FOLDER.parent / "Dockerfile").read_text()
    user = spec["template"]["spec"]["securityContext"]["runAsUser"]
    assert re.search(rf"--uid {user}\b", recipe)
