"""Parts of rendered objects that several rules need: pods, containers, selectors, ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from support.charts.rendering import Object


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template of an object."""

    owner: Object
    part: str
    """Which of the owner's templates, for example ``workers/cpu``; empty where it has one."""
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{name_of(self.owner)}{f' ({self.part})' if self.part else ''}"

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """The containers and the init containers."""
        return [*self.spec.get("initContainers", ()), *self.spec.get("containers", ())]

    @property
    def lasts(self) -> bool:
        """True for pods that serve, False for those of jobs."""
        return bool(self.owner["kind"] == "Deployment")


def name_of(each: Object) -> str:
    """Kind and name, for messages."""
    return f"{each['kind']} {each['metadata']['name']}"


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    """The objects of the kinds."""
    return [each for each in objects if each["kind"] in kinds]


def find(objects: Iterable[Object], kind: str, name: str) -> Object | None:
    """An object by its name."""
    return next((each for each in of_kind(objects, kind) if each["metadata"]["name"] == name), None)


def find_pods(objects: Iterable[Object]) -> list[Pod]:
    """All pod templates."""
    return [pod for each in objects for pod in _pods_of(each)]


def _pods_of(each: Object) -> Iterator[Pod]:
    spec = each.get("spec") or {}
    if each["kind"] in {"Deployment", "Job", "StatefulSet", "DaemonSet"}:
        yield _make_pod(each, "", spec["template"])
    elif each["kind"] == "CronJob":
        yield _make_pod(each, "", spec["jobTemplate"]["spec"]["template"])
    elif each["kind"] == "RayCluster":
        yield _make_pod(each, "head", spec["headGroupSpec"]["template"])
        for group in spec.get("workerGroupSpecs", ()):
            yield _make_pod(each, f"workers/{group['groupName']}", group["template"])
    elif each["kind"] == "Pod":
        yield _make_pod(each, "", each)


def _make_pod(owner: Object, part: str, template: Mapping[str, Any]) -> Pod:
    labels = dict((template.get("metadata") or {}).get("labels") or {})
    if owner["kind"] == "RayCluster":  # the labels that KubeRay adds
        labels |= {"ray.io/cluster": owner["metadata"]["name"], "ray.io/is-ray-node": "yes"}
        labels |= {"ray.io/node-type": "head" if part == "head" else "worker"}
        labels.setdefault("app.kubernetes.io/name", "kuberay")
    return Pod(owner, part, labels, template["spec"])


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects an object with the labels; an empty one selects everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(term, labels) for term in selector.get("matchExpressions") or ())


def _meets(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    has = term["key"] in labels
    match term["operator"]:
        case "Exists":
            return has
        case "DoesNotExist":
            return not has
        case "In":
            return labels.get(term["key"]) in term["values"]
        case "NotIn":
            return labels.get(term["key"]) not in term["values"]
    raise AssertionError(f"unknown operator {term['operator']}")


def find_port(pods: Iterable[Pod], port: str | int) -> bool:
    """Whether every one of the pods has a container with this port, by name or number."""
    return all(
        any(port in {one.get("name"), one["containerPort"]} for part in pod.containers for one in part.get("ports", ()))
        for pod in pods
    )


def strings_of(value: Any) -> Iterator[str]:
    """All texts in a value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from strings_of(key)
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)
