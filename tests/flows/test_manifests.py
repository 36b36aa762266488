"""What a JobSpec becomes in Kubernetes: valid in every version, and faithful to what the spec asks."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.jobs import JobSpec
from flows.manifests import NAME, Placement, render, to_yaml
from ovi.errors import ConfigError

WHERE = Placement(image="ovi-train:0.1.0")
SPECS = {
    "one node, no GPU": JobSpec("curate", ("ovi", "curate"), cpus=2, memory_gib=4),
    "one node, GPUs": JobSpec("train_fusion", ("ovi", "train", "fusion"), processes=8, gpus=8, cpus=64, memory_gib=512),
    "four nodes": JobSpec("train_fusion", ("ovi", "train"), nodes=4, processes=8, gpus=8, grace_s=600, env={"A": "b"}),
}


def job_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return next(item for item in objects if item["kind"] == "Job")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_valid_strictly(spec: JobSpec, version: str) -> None:
    for item in render(spec, "r1", WHERE):
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_rules_no_schema_knows(spec: JobSpec) -> None:
    job = job_of(render(spec, "r1", WHERE))["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert (job["completions"], job["parallelism"]) == (spec.nodes, spec.nodes)
    assert job["podReplacementPolicy"] == "Failed"  # the API server demands it beside a podFailurePolicy
    assert pod["restartPolicy"] == "Never"  # likewise
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert pod["terminationGracePeriodSeconds"] == spec.grace_s
    assert container["command"] == list(spec.command)
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < max(spec.grace_s, 2)  # ranks stop before the pod is killed
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == (str(spec.nodes), str(spec.processes))
    assert spec.env.items() <= env.items()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_several_nodes_meet_at_a_headless_service() -> None:
    objects = render(SPECS["four nodes"], "r1", WHERE)
    service = objects[0]
    job = job_of(objects)
    name = job["metadata"]["name"]
    assert service["kind"] == "Service"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    env = {item["name"]: item.get("value") for item in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"] == f"{name}-0.{service['metadata']['name']}"
    assert len(render(SPECS["one node, no GPU"], "r1", WHERE)) == 1


def test_a_disruption_moves_one_pod_but_ends_a_gang() -> None:
    def action(spec: JobSpec) -> str:
        rules = job_of(render(spec, "r1", WHERE))["spec"]["podFailurePolicy"]["rules"]
        return str(rules[1]["action"])

    assert action(SPECS["one node, GPUs"]) == "Ignore"
    assert action(SPECS["four nodes"]) == "FailJob"


def test_shared_memory_is_counted_as_memory() -> None:
    spec = SPECS["one node, no GPU"]
    pod = job_of(render(spec, "r1", Placement(image="x", shared_memory_gib=2)))["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == f"{6 * 1024}Mi"


@pytest.mark.parametrize("run", ["Upper", "has space", "x" * NAME, "ends-"])
def test_a_name_kubernetes_refuses_is_one_line(run: str) -> None:
    with pytest.raises(ConfigError, match="not a name Kubernetes takes"):
        render(SPECS["four nodes"], run, WHERE)


def test_yaml_reads_back_and_has_no_aliases() -> None:
    objects = render(SPECS["four nodes"], "r1", WHERE)
    text = to_yaml(objects)
    assert list(yaml.safe_load_all(text)) == objects
    assert "&id" not in text
