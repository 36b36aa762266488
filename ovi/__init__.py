"""The Ovi library: media, curation, models, sampling, training, evaluation.

It knows nothing of Prefect, Kubernetes, DVC or BentoML: those live in flows/ and services/.
"""

__version__ = "0.1.0"
