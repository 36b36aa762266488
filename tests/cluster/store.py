"""The double's etcd: objects by resource, one count of changes, watchers, garbage collection by owner.

Plain dictionaries as the API has them; one that is kept is never edited, so they are handed out as they are. Knows
nothing of HTTP nor of what an object means; who changes one does it in `change`, so that each change has a
resourceVersion and reaches every watcher once.
"""

from __future__ import annotations

import copy
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
FOREGROUND = "foregroundDeletion"
KEPT = 2000  # changes a late watcher may still ask for


class Refused(Exception):
    """A request the API answers with a Status: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class Change:
    version: int
    resource: str
    kind: str  # ADDED, MODIFIED, DELETED
    before: Object | None
    after: Object


class Store:
    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._changes: deque[Change] = deque(maxlen=KEPT)
        self._version = 1000
        self._forgotten = 1000  # changes up to this one cannot be asked for any more
        self.closed = False

    def create(self, resource: str, namespace: str, item: Object) -> Object:
        """Names, uid, times and version are the server's to give.

        https://kubernetes.io/docs/reference/using-api/api-concepts/#generated-values
        """
        with self.changed:
            item = copy.deepcopy(item)
            meta = item.setdefault("metadata", {})
            if "name" not in meta:
                meta["name"] = meta.get("generateName", "") + suffix()
            key = (namespace, meta["name"])
            if key in self._objects.setdefault(resource, {}):
                raise Refused(409, "AlreadyExists", f'{resource} "{meta["name"]}" already exists')
            meta.update(namespace=namespace, uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
            return self._put(resource, key, "ADDED", None, item)

    def get(self, resource: str, namespace: str, name: str) -> Object:
        with self.changed:
            found = self._objects.get(resource, {}).get((namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found')
            return found

    def list(
        self, resource: str, namespace: str | None = None, wanted: Callable[[Object], bool] = bool
    ) -> list[Object]:
        with self.changed:
            found = self._objects.get(resource, {})
            return [found[key] for key in sorted(found) if namespace in (None, key[0]) and wanted(found[key])]

    @property
    def version(self) -> int:
        return self._version

    def change(self, resource: str, namespace: str, name: str, edit: Callable[[Object], None]) -> Object:
        """Edit an object in place under the lock; an edit that changes nothing is no change."""
        with self.changed:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            edit(after)
            if after == before:
                return before
            if after.get("spec") != before.get("spec"):
                after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
            self._put(resource, (namespace, name), "MODIFIED", before, after)
            self._drop_if_done(resource, after)
            return after

    def delete(self, resource: str, namespace: str, name: str, policy: str, grace_s: int | None = None) -> Object:
        """Mark or remove. Pods wait for their kubelet; with dependents, for the policy.

        https://kubernetes.io/docs/concepts/architecture/garbage-collection/#cascading-deletion
        """
        with self.changed:
            item = self.get(resource, namespace, name)
            if policy == "Orphan":
                self._orphan(item)

            def mark(it: Object) -> None:
                meta = it["metadata"]
                meta.setdefault("deletionTimestamp", now())
                if resource == "pods":
                    default = it["spec"].get("terminationGracePeriodSeconds", 30)
                    wanted = default if grace_s is None else grace_s
                    meta["deletionGracePeriodSeconds"] = min(wanted, meta.get("deletionGracePeriodSeconds", wanted))
                elif policy == "Foreground" and FOREGROUND not in meta.setdefault("finalizers", []):
                    meta["finalizers"].append(FOREGROUND)

            return self.change(resource, namespace, name, mark)

    def remove_stopped_pod(self, namespace: str, name: str) -> None:
        """The kubelet's last word about a pod being deleted: its containers are gone."""
        with self.changed:
            item = self._objects["pods"].get((namespace, name))
            if item is not None and "deletionTimestamp" in item["metadata"]:
                self.change("pods", namespace, name, lambda it: it["metadata"].update(deletionGracePeriodSeconds=0))

    def collect(self) -> None:
        """Foreground owners wait for their blocking dependents; dependents of the gone go in the background."""
        with self.changed:
            everything = [(resource, item) for resource, kept in self._objects.items() for item in kept.values()]
            alive = {item["metadata"]["uid"]: item for _, item in everything}
            waiting: set[str] = set()
            for resource, item in everything:
                meta = item["metadata"]
                owners = meta.get("ownerReferences", [])
                if not owners:
                    continue
                going = [alive[o["uid"]] for o in owners if o["uid"] in alive]
                leaving = [it for it in going if FOREGROUND in it["metadata"].get("finalizers", [])]
                blocks = any(o.get("blockOwnerDeletion") for o in owners)
                if blocks:
                    waiting.update(it["metadata"]["uid"] for it in leaving)
                if "deletionTimestamp" not in meta and (not going or len(leaving) == len(going)):
                    policy = "Foreground" if leaving else "Background"
                    self.delete(resource, meta["namespace"], meta["name"], policy)
            for resource, item in everything:
                meta = item["metadata"]
                if FOREGROUND in meta.get("finalizers", []) and meta["uid"] not in waiting:
                    self.change(resource, meta["namespace"], meta["name"], _release)

    def watch(self, resource: str, namespace: str | None, since: int) -> Iterator[Change | None]:
        """Changes after `since`, None whenever half a second passed without one. Refused (410) when they are forgotten.

        https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
        """
        while not self.closed:
            with self.changed:
                if since < self._forgotten:
                    raise Refused(410, "Expired", f"too old resource version: {since} ({self._forgotten})")
                news = [change for change in self._changes if change.version > since]
                if not news:
                    self.changed.wait(0.5)
                    news = [change for change in self._changes if change.version > since]
            if not news:
                yield None
            for change in news:
                since = change.version
                if change.resource == resource and namespace in (None, change.after["metadata"]["namespace"]):
                    yield change

    def forget(self) -> None:
        """Compaction: whoever is behind must list again."""
        with self.changed:
            self._version += 1
            self._forgotten = self._version
            self._changes.clear()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _put(self, resource: str, key: tuple[str, str], kind: str, before: Object | None, item: Object) -> Object:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        if len(self._changes) == KEPT:
            self._forgotten = self._changes[0].version
        self._changes.append(Change(self._version, resource, kind, before, item))
        if kind == "DELETED":
            del self._objects[resource][key]
        else:
            self._objects[resource][key] = item
        self.changed.notify_all()
        return item

    def _drop_if_done(self, resource: str, item: Object) -> None:
        """An object marked for deletion goes when nobody holds it back."""
        meta = item["metadata"]
        if "deletionTimestamp" not in meta or meta.get("finalizers"):
            return
        if resource == "pods" and meta.get("deletionGracePeriodSeconds"):
            return
        self._put(resource, (meta["namespace"], meta["name"]), "DELETED", item, copy.deepcopy(item))

    def _orphan(self, owner: Object) -> None:
        uid = owner["metadata"]["uid"]
        for resource, kept in self._objects.items():
            for namespace, name in list(kept):

                def cut(it: Object) -> None:
                    owners = it["metadata"].get("ownerReferences")
                    if owners:
                        it["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]

                self.change(resource, namespace, name, cut)


def _release(item: Object) -> None:
    item["metadata"]["finalizers"].remove(FOREGROUND)


def now() -> str:
    """metav1.Time: whole seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_since(moment: str) -> float:
    return time.time() - datetime.fromisoformat(moment).timestamp()


def suffix() -> str:
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


def condition(item: Object, kind: str) -> Object | None:
    """The condition of that type if it is true."""
    for found in item.get("status", {}).get("conditions", []):
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None


def set_condition(item: Object, kind: str, status: str, reason: str, message: str = "") -> None:
    conditions = item.setdefault("status", {}).setdefault("conditions", [])
    fresh = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}
    for at, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] != status or old["reason"] != reason:
                conditions[at] = fresh
            return
    conditions.append(fresh)


def owned_by(item: Object, owner: Object) -> bool:
    uid = owner["metadata"]["uid"]
    return any(ref["uid"] == uid and ref.get("controller") for ref in item["metadata"].get("ownerReferences", []))


def controller_reference(owner: Object) -> Object:
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
