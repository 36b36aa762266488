"""Everything under infra/ is what Kubernetes and Docker would take: strict schemas, least rights, nobody is root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows import environment, manifests
from flows.preflight import NEEDED
from ovi.config import Cluster
from tests import schemas

REPOSITORY = Path(__file__).parents[2]
INFRA = REPOSITORY / "infra"
K8S = INFRA / "k8s"
EXAMPLE = K8S / "examples" / "train-fusion.yaml"
IMAGES = sorted(INFRA.glob("images/*.Dockerfile"))
OVERLAYS = ("small", "production")
CUSTOM = {  # kinds of other people's, with the fields of their `spec` that are used here
    "ResourceFlavor": ("kueue.x-k8s.io/v1beta2", {"nodeLabels"}),
    "ClusterQueue": (
        "kueue.x-k8s.io/v1beta2", {"namespaceSelector", "queueingStrategy", "preemption", "resourceGroups"},
    ),
    "LocalQueue": ("kueue.x-k8s.io/v1beta2", {"clusterQueue"}),
    "WorkloadPriorityClass": ("kueue.x-k8s.io/v1beta2", set()),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
}  # fmt: skip
CLUSTER_WIDE = {"Namespace", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass"}


def objects() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted(K8S.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += [(f"{path.name}:{item['kind']}", item) for item in yaml.safe_load_all(path.read_text())]
    return found


def build(folder: Path) -> Iterator[dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder that only lists resources, generates ConfigMaps and sets images."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(plan) <= {"apiVersion", "kind", "resources", "configMapGenerator", "images"}
    for name in plan.get("resources", []):
        path = (folder / name).resolve()
        yield from build(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for wanted in plan.get("configMapGenerator", []):
        data = {Path(name).name: (folder / name).read_text() for name in wanted["files"]}
        meta = {"name": wanted["name"], "namespace": wanted["namespace"], "labels": wanted["options"]["labels"]}
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_an_overlay_and_every_example_is_valid_in_every_version(overlay: str) -> None:
    example = [(EXAMPLE.name, item) for item in yaml.safe_load_all(EXAMPLE.read_text())]
    built = [(f"{overlay}:{item['kind']}", item) for item in build(K8S / "overlays" / overlay)]
    for name, item in [*built, *example]:
        if item["kind"] in CUSTOM:
            group, fields = CUSTOM[item["kind"]]
            assert item["apiVersion"] == group, name
            assert set(item.get("spec", {})) <= fields, name
        else:
            schemas.check(item)
            assert schemas.as_client_sends(item) == item, name


def test_every_file_is_in_an_overlay_or_the_example() -> None:
    built = [it for overlay in OVERLAYS for it in build(K8S / "overlays" / overlay)]
    assert not [name for name, item in objects() if item not in built and not name.startswith(EXAMPLE.name)]


def test_the_schema_check_can_fail() -> None:
    item = {**objects()[0][1], "colour": "red"}
    with pytest.raises(kubernetes_validate.ValidationError):
        schemas.check(item)


def test_the_example_is_what_the_renderer_writes() -> None:
    rendered = manifests.render(manifests.EXAMPLE, "train-fusion-example", "example", Cluster(), jobset=False)
    assert EXAMPLE.read_text() == manifests.to_yaml(rendered), "run: python -m flows.manifests > " + str(EXAMPLE)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_that_objects_use_exist(overlay: str) -> None:
    found = list(build(K8S / "overlays" / overlay))
    names = [(item["kind"], item["metadata"]["name"]) for item in found]
    assert len(set(names)) == len(names)
    where = Cluster()
    assert {("Namespace", where.namespace), ("ServiceAccount", where.service_account)} <= set(names)
    assert ("PersistentVolumeClaim", where.claim) in names
    for item in found:
        meta, kind = item["metadata"], item["kind"]
        assert (meta.get("namespace") is None) if kind in CLUSTER_WIDE else (meta["namespace"] == where.namespace)
        if kind != "Deployment":
            continue
        pod = item["spec"]["template"]
        assert item["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v
        ]
        assert all(("PersistentVolumeClaim", claim) in names for claim in claims)
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in names
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"):
        for item in (it for it in found if it["kind"] == kind):
            assert ("Deployment", item["metadata"]["name"]) in names


def test_stages_have_no_rights_and_the_flow_only_those_it_uses() -> None:
    kinds = [item for _, item in objects() if "Role" in item["kind"]]
    assert {item["kind"] for item in kinds} == {"Role", "RoleBinding"}
    bound = [subject["name"] for item in kinds if item["kind"] == "RoleBinding" for subject in item["subjects"]]
    assert bound == ["ovi-flow"]
    rules = next(item["rules"] for item in kinds if item["kind"] == "Role")
    assert "*" not in {word for rule in rules for key in ("verbs", "resources", "apiGroups") for word in rule[key]}
    given = {
        (group, resource): set(rule["verbs"])
        for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]
    }  # fmt: skip
    held = given.pop(("coordination.k8s.io", "leases/finalizers"))
    assert held == {"update"}
    assert given == {
        (group, resource): set(verbs) for verbs, group, resource in NEEDED
    }  # what `ovi preflight` asks for


def test_every_pod_is_nobody_bounded_and_without_a_secret_in_sight() -> None:
    for name, item in objects():
        if item["kind"] not in ("Deployment", "Job"):
            continue
        pod = item["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert re.fullmatch(r"ovi-(train|flow|serve):\d+\.\d+\.\d+", container["image"])
        api = pod.get("automountServiceAccountToken", True)
        assert api is (pod.get("serviceAccountName") == "ovi-flow")  # the flow alone speaks to the API server
        for variable in container["env"]:
            secret = re.search(r"(?i)password|secret|token|database|store_uri|connection_url", variable["name"])
            assert not secret or "value" not in variable, variable["name"]
    assert not any(item["kind"] == "Secret" for _, item in objects())


def test_the_worker_has_what_deployments_ask_of_its_environment() -> None:
    worker = next(it for _, it in objects() if it["kind"] == "Deployment" and it["metadata"]["name"] == "ovi-flow")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    given = {item["name"]: item.get("value") for item in container["env"]}
    asked = set(re.findall(r"\{\{ \$(\w+) \}\}", (REPOSITORY / "prefect.yaml").read_text()))
    assert asked == {"OVI_CLONE"}
    assert given["OVI_CLONE"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    service = next(it for _, it in objects() if it["kind"] == "Service" and it["metadata"]["name"] == "ovi-mlflow")
    assert given[environment.TRACKING] == f"http://ovi-mlflow:{service['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_is_reached_who_is_not_named(overlay: str) -> None:
    policies = [item for item in build(K8S / "overlays" / overlay) if item["kind"] == "NetworkPolicy"]
    (default,) = (item for item in policies if item["spec"]["podSelector"] == {})
    assert "ingress" not in default["spec"]
    reached = {value for item in policies for value in item["spec"]["podSelector"].get("matchLabels", {}).values()}
    assert reached == {"ovi-flows", "tracking", "serving"}


def test_dashboards_ask_for_figures_that_the_service_tells() -> None:
    told = (REPOSITORY / "services" / "generation" / "metrics.py").read_text()
    for path in K8S.rglob("dashboards/*.json"):
        board = json.loads(path.read_text())
        asked = {
            name for panel in board["panels"] for t in panel["targets"] for name in re.findall(r"ovi_\w+", t["expr"])
        }
        assert len(asked) >= 8
        for name in asked:
            assert f'"{re.sub("_(total|sum|count)$", "", name)}"' in told, name
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    scaler = next(item for _, item in objects() if item["kind"] == "HorizontalPodAutoscaler")
    assert f'"{scaler["spec"]["metrics"][0]["object"]["metric"]["name"]}"' in told


def test_the_example_fits_the_quota() -> None:
    hard = next(item for _, item in objects() if item["kind"] == "ResourceQuota")["spec"]["hard"]
    job = next(item for name, item in objects() if name == "train-fusion.yaml:Job")
    asked = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    nodes = job["spec"]["parallelism"]
    assert nodes * int(asked["cpu"].removesuffix("m")) <= int(hard["requests.cpu"]) * 1000
    assert nodes * int(asked["memory"].removesuffix("Mi")) <= int(hard["requests.memory"].removesuffix("Gi")) * 1024
    assert nodes * int(asked["nvidia.com/gpu"]) <= int(hard["requests.nvidia.com/gpu"])


def test_a_linter_has_nothing_to_say_of_the_images() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, *IMAGES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", IMAGES, ids=[path.name for path in IMAGES])
def test_images_are_pinned_unprivileged_and_copy_what_exists(path: Path) -> None:
    lines = [line.split() for line in path.read_text().splitlines() if line and not line.startswith(("#", " "))]
    base = next(words[1] for words in lines if words[0] == "FROM")
    assert base.count(".") == 2, f"{base}: pin the patch release"
    users = [words[1] for words in lines if words[0] == "USER"]
    assert users, "runs as root"
    assert users[-1] == "10001"  # the manifests' runAsUser
    ignored = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    for words in lines:
        if words[0] == "COPY":
            for source in words[1:-1]:
                assert (REPOSITORY / source).exists(), source
                assert f"!{source}" in ignored, source
    assert "-c constraints.txt" in path.read_text()
