# The service: library, BentoML, the Bento's own rooms; weights come with the package on its volume. From the top:
#   docker build -f infra/images/serve.Dockerfile -t ovi-serve:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DO_NOT_TRACK=1 BENTOML_DO_NOT_TRACK=True MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1

WORKDIR /opt/ovi
COPY constraints.txt ./
RUN pip install -c constraints.txt uv torch
COPY pyproject.toml README.md LICENSE ./
COPY ovi ovi
COPY flows flows
COPY services services
RUN uv pip install --system -c constraints.txt '.[serve]'

RUN useradd --uid 10001 --create-home ovi && mkdir /work /state && chown ovi /work /state
USER 10001
WORKDIR /work
CMD ["ovi", "serve"]
