# The flow: Prefect, DVC, MLflow, the Kubernetes client and the packager, with git for the commit it records. From the top:
#   docker build -f infra/images/flow.Dockerfile -t ovi-flow:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1 \
    BENTOML_DO_NOT_TRACK=True HF_HUB_OFFLINE=1

# hadolint ignore=DL3008  # Debian drops a version of git when it has the next; the base image pins the release
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/ovi
COPY constraints.txt ./
RUN pip install -c constraints.txt uv torch
COPY pyproject.toml README.md LICENSE ./
COPY ovi ovi
COPY flows flows
COPY services services
RUN uv pip install --system -c constraints.txt '.[train,flows,serve]'

RUN useradd --uid 10001 --create-home ovi && mkdir /work && chown ovi /work
USER 10001
WORKDIR /work
CMD ["ovi", "plan"]
