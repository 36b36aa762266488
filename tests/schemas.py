"""Kubernetes' own definitions, held against our manifests: strict schemas of every version, the models of its clients.

kubernetes-validate parses a megabyte for every object it checks; here each file is parsed once a session.
"""

from __future__ import annotations

import functools
from typing import Any

import kubernetes_validate
from kubernetes import client
from kubernetes_validate import utils

VERSIONS = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")

utils.schema_contents = functools.cache(utils.schema_contents)


def check(item: dict[str, Any], *versions: str) -> None:
    """Raises kubernetes_validate.ValidationError unless `item` is valid, with no unknown field, in `versions` (all)."""
    for version in versions or VERSIONS:
        used = kubernetes_validate.validate(item, version, strict=True)
        assert used == version, f"kubernetes-validate has no schemas of {version}"  # it would take older ones silently


def as_client_sends(item: dict[str, Any]) -> Any:
    """`item` read into the official client's model and written again: equal, unless the model knows a field not."""
    version = item["apiVersion"].rpartition("/")[2]
    model = getattr(client, f"{version.capitalize()}{item['kind']}")
    return client.ApiClient().sanitize_for_serialization(model.from_dict(item))
