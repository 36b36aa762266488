"""The Ovi library: media, curation, models, sampling, training, evaluation. Knows nothing of Prefect, Kubernetes, DVC or BentoML."""

__version__ = "0.1.0"
