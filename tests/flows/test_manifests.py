"""What a JobSpec becomes in Kubernetes: valid in every version, and faithful to what the spec asks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

from flows.jobs import JobSpec
from flows.manifests import LAUNCH, LEASE_S, NAME, SHARE, dns, lease, render, to_yaml
from ovi import config
from ovi.config import Cluster, Resources
from ovi.errors import ConfigError
from tests import schemas

ROOT = Path(__file__).parents[2]
PROFILES = ("tiny", "own", "small", "ovi-11b")
WHERE = Cluster(env={"NCCL_DEBUG": "WARN"}, secrets=["ovi-s3"])
RDMA = Resources(gpus=8, nodes=4, cpus=64, memory_gib=512, grace_s=600, devices={"rdma/hca": 8})
OWNER = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "x", "uid": "u", "blockOwnerDeletion": True}


def specs() -> dict[str, JobSpec]:
    """Every stage of every profile, and a gang with RDMA."""
    found: dict[str, JobSpec] = {}
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for profile in PROFILES:
        resources = config.load(ROOT / "params.yaml", profile).resources
        for stage, told in stages.items():
            command = (*shlex.split(told["cmd"]), "--json")
            found[f"{profile} {stage}"] = JobSpec.of(stage, command, resources.get(stage, Resources()), env={"A": "b"})
    found["four apart"] = JobSpec.of("curate", ("ovi", "curate"), Resources(nodes=4, apart=True, retries=2))
    found["four nodes"] = JobSpec.of("train_fusion", ("ovi", "train", "fusion"), RDMA)
    return found


SPECS = specs()


def objects(spec: JobSpec, jobset: bool, where: Cluster = WHERE) -> list[dict[str, Any]]:
    run = f"{dns(spec.stage)}-0a1b2c3d"  # names as the executor makes them, and many attempts
    return render(spec, f"{run}-12", run, where, jobset, OWNER)


def job_of(spec: JobSpec, jobset: bool, where: Cluster = WHERE) -> dict[str, Any]:
    """The Job, a JobSet's as its controller would make it."""
    top = objects(spec, jobset, where)[-1]
    if top["kind"] == "Job":
        return top
    (replicated,) = top["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    name = f"{top['metadata']['name']}-{replicated['name']}-0"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": replicated["template"]["spec"]}


@pytest.mark.parametrize("name", SPECS)
def test_every_stage_of_every_profile_is_valid_in_every_version(name: str) -> None:
    items = [*objects(SPECS[name], False), job_of(SPECS[name], True)]
    for item in items:
        schemas.check(item)
        assert schemas.as_client_sends(item) == item


def test_what_is_queued_and_what_owns_it_are_valid_in_every_version() -> None:
    queued = Cluster(queue="team", priority="high")
    gang = SPECS["four nodes"]
    held = lease("x", "curate", WHERE, "2026-01-01T00:00:00.000000Z", "me", OWNER)
    for item in (*objects(gang, False, queued), job_of(gang, True, queued), held):
        schemas.check(item)


def test_the_checks_can_fail() -> None:
    item = objects(SPECS["tiny curate"], False)[-1]
    item["spec"]["template"]["spec"]["graceSeconds"] = 3
    assert schemas.as_client_sends(item) != item
    for version in schemas.VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError, match="graceSeconds"):
            schemas.check(item, version)


@pytest.mark.parametrize("queue", [None, "team"], ids=["at once", "queued"])
def test_a_jobset_of_every_stage_is_what_its_own_models_write(queue: str | None) -> None:
    for name, spec in ((name, spec) for name, spec in SPECS.items() if not spec.apart):
        (item,) = objects(spec, True, Cluster(queue=queue, env={"NCCL_DEBUG": "WARN"}, secrets=["ovi-s3"]))
        model = JobsetV1alpha2JobSet.from_dict(item)
        assert model is not None
        assert model.to_dict() == item, name  # a field that it does not know is lost on the way


def test_a_jobset_has_the_fields_of_its_definition() -> None:
    """jobset.x-k8s.io/v1alpha2, whose schema no package of validators has."""
    spec = objects(SPECS["four nodes"], True)[-1]["spec"]
    allowed = {
        "network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
        "successPolicy": {"operator", "targetReplicatedJobs"},
        "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    }
    assert set(spec) <= {*allowed, "replicatedJobs", "suspend", "ttlSecondsAfterFinished"}
    for part, fields in allowed.items():
        assert set(spec[part]) <= fields
    (rule,) = spec["failurePolicy"]["rules"]
    assert set(rule) == {"name", "action", "onJobFailureReasons"}
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert spec["failurePolicy"]["restartStrategy"] in ("Recreate", "BlockingRecreate")


@pytest.mark.parametrize("jobset", [False, True], ids=["job", "jobset"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_rules_no_schema_knows(spec: JobSpec, jobset: bool) -> None:
    top = objects(spec, jobset)[-1]
    assert top["metadata"]["ownerReferences"] == [OWNER]
    job = job_of(spec, jobset)["spec"]
    pod = job["template"]["spec"]
    container = pod["containers"][0]
    assert (job["completions"], job["parallelism"]) == (spec.nodes, spec.nodes)
    assert job["podReplacementPolicy"] == "Failed"  # the API server demands it beside a podFailurePolicy
    assert pod["restartPolicy"] == "Never"  # likewise
    assert job["activeDeadlineSeconds"] > spec.deadline_s + spec.grace_s  # the flow's own clock comes first
    asked = container["resources"]
    assert asked["limits"] == asked["requests"]
    assert asked["limits"].get("nvidia.com/gpu", "0") == str(spec.gpus)
    assert pod["terminationGracePeriodSeconds"] == spec.grace_s
    share = [SHARE[0], f"$(JOB_COMPLETION_INDEX)/{spec.nodes}"] if spec.apart else []
    assert container["command"] == [*(LAUNCH if spec.nodes > 1 and not spec.apart else ()), *spec.command, *share]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < max(spec.grace_s, 2)  # ranks stop before the pod is killed
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"]) == (str(spec.nodes), str(spec.processes))
    assert {**spec.env, **WHERE.env}.items() <= env.items()
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    name = job_of(spec, jobset)["metadata"]["name"]
    for label in (top["metadata"]["name"], container["name"], f"{name}-{spec.nodes - 1}"):  # the last: a host name
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", label)
    hidden = re.compile(r"(?i)secret|password|token|access_key|credential")
    assert not [key for key, value in env.items() if hidden.search(key) and value is not None]
    assert "://" not in json.dumps(objects(spec, jobset))  # an address may carry a password
    for labels in (top["metadata"]["labels"], job["template"]["metadata"]["labels"]):
        assert all(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value) for value in labels.values())


@pytest.mark.parametrize("jobset", [False, True], ids=["job", "jobset"])
def test_pods_are_nobody_and_know_no_secret(jobset: bool) -> None:
    pod = job_of(SPECS["four nodes"], jobset)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["automountServiceAccountToken"] is False  # they need nothing of the API server
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}  # RDMA pins memory
    assert container["envFrom"] == [{"secretRef": {"name": "ovi-s3"}}]
    plain = job_of(JobSpec("curate", ("ovi",)), jobset)["spec"]["template"]["spec"]["containers"][0]
    assert plain["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_several_nodes_meet_at_a_headless_service() -> None:
    service, job = objects(SPECS["four nodes"], False)
    name = job["metadata"]["name"]
    assert service["kind"] == "Service"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert _address(job) == f"{name}-0.{service['metadata']['name']}"
    (jobset,) = objects(SPECS["four nodes"], True)
    assert jobset["spec"]["network"]["subdomain"] == name
    assert _address(job_of(SPECS["four nodes"], True)) == f"{name}-node-0-0.{name}"
    assert len(objects(JobSpec("curate", ("ovi",)), False)) == 1


def _address(job: dict[str, Any]) -> str:
    env = job["spec"]["template"]["spec"]["containers"][0]["env"]
    return str(next(item["value"] for item in env if item["name"] == "PET_MASTER_ADDR"))


def test_a_disruption_moves_one_pod_but_ends_a_gang() -> None:
    def actions(spec: JobSpec, jobset: bool) -> list[str]:
        return [str(rule["action"]) for rule in job_of(spec, jobset)["spec"]["podFailurePolicy"]["rules"]]

    one = JobSpec("curate", ("ovi",))
    assert (actions(one, False), actions(SPECS["four nodes"], False)) == (["FailJob", "Ignore"], ["FailJob", "FailJob"])
    assert actions(one, True) == ["FailJob"]  # of a disruption alone: the JobSet's rule acts on that reason


@pytest.mark.parametrize("jobset", [False, True], ids=["job", "jobset"])
def test_nodes_that_work_apart_are_one_job_whose_indexes_are_retried_alone(jobset: bool) -> None:
    (job,) = objects(SPECS["four apart"], jobset)  # no JobSet, and no Service: they do not meet
    assert (job["kind"], job["spec"]["completionMode"], job["spec"]["completions"]) == ("Job", "Indexed", 4)
    assert job["spec"]["backoffLimitPerIndex"] == 2
    assert "backoffLimit" not in job["spec"]  # any would count the failures of all together
    assert [rule["action"] for rule in job["spec"]["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore"]
    assert "subdomain" not in job["spec"]["template"]["spec"]


def test_a_dollar_of_the_stage_is_no_variable_of_the_kubelet() -> None:
    job = job_of(JobSpec("curate", ("sh", "-c", "echo $(HOME) $HOME")), False)
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["sh", "-c", "echo $$(HOME) $$HOME"]


def test_kueue_is_asked_at_the_top() -> None:
    for jobset in (False, True):
        top = objects(SPECS["four nodes"], jobset, Cluster(queue="team", priority="high"))[-1]
        assert top["spec"]["suspend"] is True
        assert top["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
        assert top["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
        assert "suspend" not in objects(SPECS["four nodes"], jobset)[-1]["spec"]


@pytest.mark.parametrize("jobset", [True, False])
def test_a_stage_may_differ_from_its_cluster(jobset: bool) -> None:
    its_own = Resources(image="big:1", queue="fast", priority="high", shared_memory_gib=64, secrets=[])
    where = Cluster(queue="slow", priority="low", secrets=["ovi-s3"])
    (top,) = objects(JobSpec.of("train_fusion", ("x",), its_own), jobset, where)
    assert top["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "fast"
    assert top["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    pod = job_of(JobSpec.of("train_fusion", ("x",), its_own), jobset, where)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "big:1"
    assert "envFrom" not in container
    assert pod["volumes"][1]["emptyDir"]["sizeLimit"] == f"{64 * 1024}Mi"


def test_shared_memory_is_counted_as_memory() -> None:
    job = job_of(JobSpec("curate", ("ovi",), memory_gib=4), False, Cluster(shared_memory_gib=2))
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["memory"] == f"{6 * 1024}Mi"


def test_a_lease_outlives_several_missed_renewals() -> None:
    from flows.lease import RENEW_S

    assert LEASE_S >= 5 * RENEW_S


@pytest.mark.parametrize("name", ["Upper", "has space", "x" * (NAME - 5), "ends-"])
def test_a_name_kubernetes_refuses_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name Kubernetes takes"):
        render(SPECS["four nodes"], name, "r1", WHERE, False)


def test_yaml_reads_back_and_has_no_aliases() -> None:
    rendered = objects(SPECS["four nodes"], False)
    text = to_yaml(rendered)
    assert list(yaml.safe_load_all(text)) == rendered
    assert "&id" not in text
