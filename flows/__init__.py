"""Prefect: when and where a stage runs. dvc.yaml owns their order, MLflow keeps what happened."""
