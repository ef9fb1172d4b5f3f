"""The rules find the faults that they are for: each is made in the objects of the fullest example."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from support.charts.manifests import of_kind
from support.charts.rendering import CHART, Object, read_values, render
from support.charts.rules import RULES

EVERYTHING = read_values(CHART / "examples" / "everything.yaml")


def first(objects: list[Object], kind: str) -> Any:
    return of_kind(objects, kind)[0]


def container(objects: list[Object]) -> Any:
    return first(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]


def pod(objects: list[Object]) -> Any:
    return first(objects, "Deployment")["spec"]["template"]


FAULTS: dict[str, Callable[[list[Object]], Any]] = {
    "no_empty_values": lambda all_: first(all_, "Service")["metadata"].update(annotations=None),
    "names_are_valid": lambda all_: first(all_, "Service")["metadata"].update(name="1-api"),
    "namespaces_are_said": lambda all_: first(all_, "Service")["metadata"].pop("namespace"),
    "labels_are_complete": lambda all_: first(all_, "Job")["metadata"]["labels"].pop("app.kubernetes.io/version"),
    "nothing_secret": lambda all_: first(all_, "ConfigMap")["data"].update(INGEST_QDRANT__API_KEY="x"),
    "pods_are_restricted": lambda all_: container(all_)["securityContext"].pop("capabilities"),
    "accounts_are_explicit": lambda all_: pod(all_)["spec"].pop("automountServiceAccountToken"),
    "images_are_pinned": lambda all_: container(all_).update(image="registry.example.com:5000/engine"),
    "resources_are_set": lambda all_: container(all_)["resources"]["requests"].update(memory="9Gi"),
    "probes_are_set": lambda all_: container(all_)["readinessProbe"]["httpGet"].update(port="metrics"),
    "pods_stop_in_time": lambda all_: pod(all_)["spec"].update(terminationGracePeriodSeconds=6),
    "pods_fit_together": lambda all_: container(all_)["volumeMounts"].pop(0),
    "selectors_match": lambda all_: first(all_, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].popitem(),
    "budgets_let_nodes_drain": lambda all_: first(all_, "PodDisruptionBudget")["spec"].update(maxUnavailable=0),
    "services_have_ports": lambda all_: first(all_, "Service")["spec"]["ports"][0].update(targetPort="metrics"),
    "scaling_is_consistent": lambda all_: first(all_, "Deployment")["spec"].update(replicas=2),
    "monitors_find_targets": lambda all_: first(all_, "PodMonitor")["spec"]["podMetricsEndpoints"][0].update(port="x"),
    "policies_cover_pods": lambda all_: pod(all_)["metadata"]["labels"].update({"app.kubernetes.io/name": "other"}),
    "routes_lead_to_services": lambda all_: first(all_, "Service")["metadata"].update(name="other"),
    "accounts_exist": lambda all_: first(all_, "Role")["rules"][0].update(verbs=["*"]),
    "config_maps_exist": lambda all_: container(all_)["envFrom"][0]["configMapRef"].update(
        name="engine-ingestion-engine-confg"
    ),
}


def test_every_rule_has_a_fault() -> None:
    assert set(FAULTS) == set(RULES)


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_found_by_its_rule(rule: str) -> None:
    objects = render(EVERYTHING)
    # The component with an Ingress and an autoscaler comes first, so that every fault is in its objects.
    objects.sort(key=lambda each: each["metadata"].get("labels", {}).get("app.kubernetes.io/component") != "api")
    assert list(RULES[rule](objects)) == []

    broken = copy.deepcopy(objects)
    FAULTS[rule](broken)
    assert list(RULES[rule](broken)) != []
