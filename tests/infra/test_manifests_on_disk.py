"""Everything under infra/ is what Kubernetes and Docker would take: strict schemas, least rights, nobody is root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows import manifests

REPOSITORY = Path(__file__).parents[2]
INFRA = REPOSITORY / "infra"
EXAMPLE = INFRA / "k8s" / "examples" / "train-fusion.yaml"
IMAGES = sorted(INFRA.glob("images/*.Dockerfile"))
VERSIONS = ("1.31", "1.37")


def objects() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted(INFRA.rglob("*.yaml")):
        found += [(f"{path.name}:{item['kind']}", item) for item in yaml.safe_load_all(path.read_text())]
    return found


@pytest.mark.parametrize(("name", "item"), objects(), ids=[name for name, _ in objects()])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_passes_the_strict_schema(name: str, item: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(item, version, strict=True)


def test_the_schema_check_can_fail() -> None:
    item = {**objects()[0][1], "colour": "red"}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, "1.37", strict=True)


def test_the_example_is_what_the_renderer_writes() -> None:
    rendered = manifests.render(manifests.EXAMPLE, "example", manifests.Placement(image="ovi-train:0.1.0"))
    assert EXAMPLE.read_text() == manifests.to_yaml(rendered), "run: python -m flows.manifests > " + str(EXAMPLE)


def test_names_that_objects_use_exist() -> None:
    names = {(item["kind"], item["metadata"]["name"]) for _, item in objects()}
    where = manifests.Placement(image="x")
    assert ("Namespace", where.namespace) in names
    assert ("ServiceAccount", where.service_account) in names
    assert ("PersistentVolumeClaim", where.claim) in names
    assert all(item["kind"] == "Namespace" or item["metadata"]["namespace"] == where.namespace for _, item in objects())


def test_stages_have_no_rights_and_the_flow_only_those_it_uses() -> None:
    kinds = [item for _, item in objects() if "Role" in item["kind"]]
    assert {item["kind"] for item in kinds} == {"Role", "RoleBinding"}
    bound = [subject["name"] for item in kinds if item["kind"] == "RoleBinding" for subject in item["subjects"]]
    assert bound == ["ovi-flow"]
    rules = next(item["rules"] for item in kinds if item["kind"] == "Role")
    assert "*" not in {word for rule in rules for key in ("verbs", "resources", "apiGroups") for word in rule[key]}
    assert "secrets" not in {resource for rule in rules for resource in rule["resources"]}


def test_the_example_fits_the_quota() -> None:
    hard = next(item for _, item in objects() if item["kind"] == "ResourceQuota")["spec"]["hard"]
    job = next(item for name, item in objects() if name == "train-fusion.yaml:Job")
    asked = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    nodes = job["spec"]["parallelism"]
    assert nodes * int(asked["cpu"].removesuffix("m")) <= int(hard["requests.cpu"]) * 1000
    assert nodes * int(asked["memory"].removesuffix("Mi")) <= int(hard["requests.memory"].removesuffix("Gi")) * 1024
    assert nodes * int(asked["nvidia.com/gpu"]) <= int(hard["requests.nvidia.com/gpu"])


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
