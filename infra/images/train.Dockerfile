# A stage: the library with DeepSpeed, MLflow's client and DVC, by which pods without a shared volume fetch. Build from the top of the repository:
#   docker build -f infra/images/train.Dockerfile -t ovi-train:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1

WORKDIR /opt/ovi
COPY constraints.txt ./
RUN pip install -c constraints.txt uv torch
COPY pyproject.toml README.md LICENSE ./
COPY ovi ovi
COPY flows flows
COPY services services
RUN uv pip install --system -c constraints.txt '.[train]' dvc dvc-s3

RUN useradd --uid 10001 --create-home ovi && mkdir /work && chown ovi /work
USER 10001
WORKDIR /work
CMD ["ovi", "--help"]
