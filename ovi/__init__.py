"""The Ovi library: media, curation, models, sampling, training, evaluation.

It knows nothing of Prefect, Kubernetes, DVC or BentoML: those live in flows/ and services/.
"""

import os

__version__ = "0.1.0"

# How long a thread of a torch operation spins for the others before it sleeps; libgomp reads it when torch is imported.
# Its own 300,000 are 2 % faster on an idle machine, and several times slower as soon as a core has other work too.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
