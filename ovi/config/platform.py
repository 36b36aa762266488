"""Settings of what runs it all: the service, tracking, the cluster and its machines, the data's remote."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ovi.config.section import Count, Port, Positive, Section


class Service(Section):
    host: str = "127.0.0.1"
    port: Port = 3000
    queue: Count = 32  # jobs that may wait
    workers: Annotated[int, Field(ge=0)] = 1  # sampler processes, spread over the GPUs; 0: one a GPU
    retention_hours: Positive = 24.0  # from its end until a job and its clip are forgotten
    database: str | None = None  # postgresql+psycopg://... for several servers; None: SQLite in the state folder
    results: str | None = None  # folder or s3://bucket/prefix, for all servers of a database; None: in the state folder
    model: str | None = None  # models:/NAME@ALIAS of tracking.uri, followed when it moves; None: the packed one
    bundle: str | None = None  # folder or link with service.json and model/; when it changes, workers change over
    keys: str | None = None  # file written by `ovi key`; None: only callers on this machine are served
    policy: str | None = None  # your own rules over prompts and clips, module:name
    certificate: str | None = None  # PEM chain: clips are signed with it (C2PA)
    certificate_key: str | None = None  # its private key, PEM
    prompt: str = ""  # what the pipeline asks its own service for
    seed: int = 1


class Tracking(Section):
    uri: str = "sqlite:///out/mlflow.db"
    artifacts: str = "out/mlartifacts"
    experiment: str = "ovi"


class Resources(Section):
    """What a stage needs of a machine; read by the executors, never by the stage itself."""

    cpus: Positive = 2
    memory_gib: Positive = 6
    gpus: Annotated[int, Field(ge=0)] = 0
    nodes: Count = 1
    apart: bool = False  # nodes work a share each (the command's --shard i/n), each retried alone; else they are a gang
    grace_s: Count = 30  # between SIGTERM and SIGKILL
    deadline_s: Count = 3600
    retries: Annotated[int, Field(ge=0)] = 0
    devices: dict[str, Count] = {}  # others that a cluster gives out by name, such as rdma/hca: 8
    executor: Literal["local", "kubernetes"] | None = None  # where this stage runs; None: where all do
    image: str | None = None  # this and the next four: of this stage alone; None: the cluster's
    queue: str | None = None
    priority: str | None = None
    shared_memory_gib: Positive | None = None
    secrets: list[str] | None = None


class Cluster(Section):
    """The cluster that stages run in with `executor: kubernetes`; read by the flow alone."""

    context: str | None = None  # of the kubeconfig; None: the current one, and in a pod its service account
    namespace: str = "ovi"
    image: str = "ovi-train:0.1.0"
    service_account: str = "ovi-stage"
    claim: str | None = "ovi-work"  # the volume claim that this clone's folder is on; None: all goes by data.remote
    clone: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None = None  # whose runs these are;
    # None: the claim's, and without one this machine's and folder's
    kind: Literal["auto", "jobset", "job"] = "auto"  # auto: a JobSet where the server has them
    queue: str | None = None  # Kueue's LocalQueue; None: no Kueue
    priority: str | None = None  # Kueue's WorkloadPriorityClass
    secrets: list[str] = []  # Secrets whose keys become a stage's environment
    env: dict[str, str] = {}  # of every pod, such as NCCL_SOCKET_IFNAME
    shared_memory_gib: Positive = 1.0  # /dev/shm, counted as memory
    start_s: Count = 86_400  # until all pods of a stage run, the queue included
    stuck_s: Count = 120  # for what does not mend itself, such as an image that is not there
    preemptions: Annotated[int, Field(ge=0)] = 100  # times a stage is started again after one; they are no failures


class Data(Section):
    remote: str | None = None  # folder or s3://bucket/prefix that outputs are pushed to; None: they stay here
