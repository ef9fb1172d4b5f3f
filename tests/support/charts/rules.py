"""What we demand of the chart's objects beyond schemas: the restricted Pod Security Standard, probes, references that
lead somewhere, selectors that match what they are for. Each rule returns one line per fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from support.charts.manifests import Pod, find, find_pods, find_port, name_of, of_kind, selects
from support.charts.rendering import Object

Rule = Callable[[list[Object]], Iterable[str]]

RULES: Final[dict[str, Rule]] = {}
"""Every rule by its name."""

COMMON_LABELS: Final = ("name", "instance", "version", "managed-by", "part-of")
"""The labels ``app.kubernetes.io/…`` that every object has."""

RESTRICTED_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
"""The kinds of volumes that the restricted Pod Security Standard allows."""

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti|)$")
_FACTORS = {"m": Decimal("0.001"), "": Decimal(1)} | {
    unit: Decimal(base) ** power
    for base, suffix in ((1000, ""), (1024, "i"))
    for power, unit in enumerate(("K" if suffix else "k", "M", "G", "T"), 1)
    for unit in (unit + suffix,)
}


def rule(check: Rule) -> Rule:
    """Register a rule under the name of its function."""
    RULES[check.__name__] = check
    return check


def find_faults(objects: list[Object]) -> list[str]:
    """The faults that any rule finds, with the rule's name in front."""
    return [f"{name}: {fault}" for name, check in RULES.items() for fault in check(objects)]


def parse_quantity(text: Any) -> Decimal:
    """A quantity of Kubernetes as a number: ``200m`` is 0.2. Raises AssertionError for anything else."""
    found = _QUANTITY.match(str(text))
    assert found is not None, f"{text} is no quantity"
    return Decimal(found.group(1)) * _FACTORS[found.group(2)]


# Every object


@rule
def no_empty_values(objects: list[Object]) -> Iterator[str]:
    """No key without a value: it means a template whose list or map was empty, and Argo CD shows it as a difference."""

    def walk(value: Any, path: str) -> Iterator[str]:
        if value is None:
            yield path
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, f"{path}.{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                yield from walk(inner, f"{path}[{index}]")

    for each in objects:
        yield from (f"{name_of(each)}: {path[1:]} has no value" for path in walk(each, ""))


@rule
def names_are_valid(objects: list[Object]) -> Iterator[str]:
    """Names are unique, and labels of DNS; those whose pods get suffixes leave room for them."""
    seen = Counter((each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects)
    yield from (f"{kind} {name} exists {count} times" for (kind, _, name), count in seen.items() if count > 1)
    room = {"Deployment": 11, "Job": 6, "RayCluster": 10}  # -<10> of the ReplicaSet, -<5> of the pod, -head-svc
    for each in objects:
        name = each["metadata"]["name"]
        if not _LABEL.match(name):
            yield f"{name_of(each)}: the name is no DNS label of at most 63 characters"
        if each["kind"] == "Service" and not name[0].isalpha():
            yield f"{name_of(each)}: the name of a Service begins with a letter"
        if len(name) > 63 - room.get(each["kind"], 0):
            yield f"{name_of(each)}: a name of {len(name)} characters leaves no room for the suffixes of its pods"


@rule
def namespaces_are_said(objects: list[Object]) -> Iterator[str]:
    """Every object says its namespace, so that ``helm template | kubectl apply`` puts it there."""
    cluster_wide = {"ClusterRole", "ClusterRoleBinding", "Namespace", "PriorityClass"}
    for each in objects:
        if each["kind"] in cluster_wide:
            yield f"{name_of(each)}: it is not bound to a namespace"
        elif not each["metadata"].get("namespace"):
            yield f"{name_of(each)}: no namespace"


@rule
def labels_are_complete(objects: list[Object]) -> Iterator[str]:
    """The recommended labels are on every object, and all values are valid."""
    for each in objects:
        labels = each["metadata"].get("labels") or {}
        for label in COMMON_LABELS:
            if not labels.get(f"app.kubernetes.io/{label}"):
                yield f"{name_of(each)}: no label app.kubernetes.io/{label}"
        if not str(labels.get("helm.sh/chart", "")).startswith("ingestion-engine-"):
            yield f"{name_of(each)}: no label helm.sh/chart"
        yield from _find_bad_labels(name_of(each), labels)
    for pod in find_pods(objects):
        for label in ("name", "instance", "component"):
            if not pod.labels.get(f"app.kubernetes.io/{label}"):
                yield f"{pod}: pods have no label app.kubernetes.io/{label}"
        yield from _find_bad_labels(str(pod), pod.labels)


def _find_bad_labels(where: str, labels: Mapping[str, Any]) -> Iterator[str]:
    for key, value in labels.items():
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            yield f"{where}: the label {key}={value!r} is not valid"


@rule
def nothing_secret(objects: list[Object]) -> Iterator[str]:
    """No Secret, and no text that looks like one: secrets are named, never rendered."""
    yield from (f"{name_of(each)}: the chart makes no Secrets" for each in of_kind(objects, "Secret"))
    secret = re.compile(r"(PASSWORD|SECRET_ACCESS_KEY|API_KEY|AUTH_TOKEN|DATABASE_URL)$")
    for each in of_kind(objects, "ConfigMap"):
        yield from (f"{name_of(each)}: {key} belongs into a Secret" for key in each["data"] if secret.search(key))
    for pod in find_pods(objects):
        for part in pod.containers:
            for entry in part.get("env", ()):
                if secret.search(entry["name"]) and "value" in entry:
                    yield f"{pod}/{part['name']}: {entry['name']} belongs into a Secret"


# Pods


@rule
def pods_are_restricted(objects: list[Object]) -> Iterator[str]:
    """The restricted Pod Security Standard, and a read-only root file system."""
    for pod in find_pods(objects):
        yield from (f"{pod}: {fault}" for fault in _find_unrestricted(pod.spec))
        for part in pod.containers:
            yield from (f"{pod}/{part['name']}: {fault}" for fault in _find_privileges(part, pod.spec))


def _find_unrestricted(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{flag} is set" for flag in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(flag))
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"}
        if len(kinds) != 1 or not kinds <= RESTRICTED_VOLUMES:
            yield f"the volume {volume['name']} is of the kind {', '.join(sorted(kinds))}"
    if (spec.get("securityContext") or {}).get("sysctls"):
        yield "sysctls are set"


def _find_privileges(part: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    own, pods = part.get("securityContext") or {}, spec.get("securityContext") or {}
    if own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pods.get("runAsUser", 1)) == 0:
        yield "runs as root"
    profile = own.get("seccompProfile", pods.get("seccompProfile")) or {}
    if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccompProfile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    capabilities = own.get("capabilities") or {}
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "capabilities are not dropped"
    if own.get("privileged") or own.get("procMount"):
        yield "privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "the root file system can be written"
    if any(port.get("hostPort") for port in part.get("ports", ())):
        yield "a port of the node is used"


@rule
def accounts_are_explicit(objects: list[Object]) -> Iterator[str]:
    """Every pod names its account, says whether it gets its token, and gets no variables of foreign services."""
    for pod in find_pods(objects):
        account = pod.spec.get("serviceAccountName")
        # KubeRay makes the account of an autoscaler, and only where none is named.
        made = pod.part == "head" and pod.owner["spec"].get("enableInTreeAutoscaling") is True
        if not account and not made:
            yield f"{pod}: no serviceAccountName"
        if not isinstance(pod.spec.get("automountServiceAccountToken"), bool):
            yield f"{pod}: automountServiceAccountToken is not said"
        if pod.spec.get("enableServiceLinks") is not False and pod.owner["kind"] != "RayCluster":
            yield f"{pod}: enableServiceLinks is not false"


@rule
def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    """Every image has a tag or digest, not `latest`, and says when it is pulled."""
    for pod in find_pods(objects):
        for part in pod.containers:
            image = str(part["image"])
            _, _, tag = image.rpartition("/")[2].partition(":")
            if "@sha256:" not in image and tag in {"", "latest"}:
                yield f"{pod}/{part['name']}: the image {image} has no fixed tag"
            if not part.get("imagePullPolicy"):
                yield f"{pod}/{part['name']}: no imagePullPolicy"


@rule
def resources_are_set(objects: list[Object]) -> Iterator[str]:
    """Requests of CPU and memory, a limit of memory, and no request above its limit."""
    for pod in find_pods(objects):
        for part in pod.containers:
            resources = part.get("resources") or {}
            requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
            missing = [name for name in ("cpu", "memory") if name not in requests]
            missing += ["limit of memory"] if "memory" not in limits else []
            yield from (f"{pod}/{part['name']}: no {name}" for name in missing)
            for name, limit in limits.items():
                if parse_quantity(requests.get(name, limit)) > parse_quantity(limit):
                    yield f"{pod}/{part['name']}: requests more {name} than its limit"


@rule
def probes_are_set(objects: list[Object]) -> Iterator[str]:
    """Pods that serve are probed for start, life and readiness at ports that they have, readiness by another path."""
    for pod in find_pods(objects):
        if not pod.lasts:
            continue
        for part in pod.spec["containers"]:
            paths = {}
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = (part.get(kind) or {}).get("httpGet")
                if probe is None:
                    yield f"{pod}/{part['name']}: no {kind}"
                    continue
                paths[kind] = probe["path"]
                if not find_port([pod], probe["port"]):
                    yield f"{pod}/{part['name']}: {kind} has the unknown port {probe['port']}"
            if len(paths) == 3 and paths["livenessProbe"] == paths["readinessProbe"]:
                yield f"{pod}/{part['name']}: a broken dependency would restart the pod"


@rule
def pods_stop_in_time(objects: list[Object]) -> Iterator[str]:
    """The preStop hook leaves at least ten seconds of the time that a pod has to stop."""
    for pod in find_pods(objects):
        for part in pod.containers:
            sleep = ((part.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}
            if sleep and pod.spec.get("terminationGracePeriodSeconds", 30) - sleep["seconds"] < 10:
                yield f"{pod}/{part['name']}: killed during its preStop hook"


@rule
def pods_fit_together(objects: list[Object]) -> Iterator[str]:
    """Names in a pod are unique; volumes and mounts belong together; /tmp can be written."""
    for pod in find_pods(objects):
        volumes = [volume["name"] for volume in pod.spec.get("volumes", ())]
        yield from (f"{pod}: the volume {name} exists twice" for name, count in Counter(volumes).items() if count > 1)
        mounted = set()
        for part in pod.containers:
            where = f"{pod}/{part['name']}"
            mounts = part.get("volumeMounts", ())
            mounted |= {mount["name"] for mount in mounts}
            for path, count in Counter(mount["mountPath"] for mount in mounts).items():
                if count > 1:
                    yield f"{where}: {path} is mounted twice"
            for name, count in Counter(entry["name"] for entry in part.get("env", ())).items():
                if count > 1:
                    yield f"{where}: the variable {name} exists twice"
            for name, count in Counter(port.get("name") for port in part.get("ports", ())).items():
                if count > 1 or not name or len(name) > 15:
                    yield f"{where}: the port's name {name} is not unique or too long"
            if not any(mount["mountPath"] == "/tmp" and not mount.get("readOnly") for mount in mounts):
                yield f"{where}: /tmp cannot be written"
        yield from (f"{pod}: the volume {name} does not exist" for name in sorted(mounted - set(volumes)))
        yield from (f"{pod}: the volume {name} is not mounted" for name in sorted(set(volumes) - mounted))


# References


@rule
def selectors_match(objects: list[Object]) -> Iterator[str]:
    """Deployments select their own pods and no others; so do budgets, spreads and policies select what they are for."""
    pods = find_pods(objects)
    for each in of_kind(objects, "Deployment"):
        selector = each["spec"]["selector"]
        found = [pod for pod in pods if selects(selector, pod.labels)]
        if [pod.owner for pod in found] != [each]:
            yield f"{name_of(each)}: it selects the pods of {', '.join(map(str, found)) or 'nothing'}"
        for term in each["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            spread = [pod.owner for pod in pods if selects(term.get("labelSelector"), pod.labels)]
            if spread != [each]:
                yield f"{name_of(each)}: its spread counts other pods"
    for each in of_kind(objects, "PodDisruptionBudget"):
        found = [pod for pod in pods if selects(each["spec"]["selector"], pod.labels)]
        if len(found) != 1 or found[0].owner["kind"] != "Deployment":
            yield f"{name_of(each)}: it selects the pods of {', '.join(map(str, found)) or 'nothing'}"
    for each in of_kind(objects, "NetworkPolicy"):
        if not any(selects(each["spec"]["podSelector"], pod.labels) for pod in pods):
            yield f"{name_of(each)}: it selects no pods"


@rule
def budgets_let_nodes_drain(objects: list[Object]) -> Iterator[str]:
    """A budget never keeps every pod: a node with one of them could not be drained."""
    for each in of_kind(objects, "PodDisruptionBudget"):
        spec = each["spec"]
        target = next(
            (one for one in of_kind(objects, "Deployment") if selects(spec["selector"], _labels_of_pods(one))), None
        )
        scaled = [
            one["spec"]["minReplicas"]
            for one in of_kind(objects, "HorizontalPodAutoscaler")
            if target is not None and one["spec"]["scaleTargetRef"]["name"] == target["metadata"]["name"]
        ]
        replicas = 1 if target is None else target["spec"].get("replicas", *scaled)
        if spec.get("maxUnavailable") in {0, "0%"} or spec.get("minAvailable", 0) in {"100%", replicas}:
            yield f"{name_of(each)}: it allows no disruption"


def _labels_of_pods(each: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = each["spec"]["template"]["metadata"]["labels"]
    return labels


@rule
def services_have_ports(objects: list[Object]) -> Iterator[str]:
    """A Service selects pods of one workload, which have its ports, by name."""
    pods = find_pods(objects)
    for each in of_kind(objects, "Service"):
        found = [pod for pod in pods if selects({"matchLabels": each["spec"]["selector"]}, pod.labels)]
        if len({name_of(pod.owner) for pod in found}) != 1:
            yield f"{name_of(each)}: it selects the pods of {', '.join(map(str, found)) or 'nothing'}"
        for port in each["spec"]["ports"]:
            if not find_port(found, port.get("targetPort", port["port"])):
                yield f"{name_of(each)}: the pods have no port {port.get('targetPort', port['port'])}"
            if not port.get("name"):
                yield f"{name_of(each)}: the port {port['port']} has no name"


@rule
def scaling_is_consistent(objects: list[Object]) -> Iterator[str]:
    """An autoscaler has a target, whose replicas are then left to it, and whose pods request what it measures."""
    scaled = set()
    for each in of_kind(objects, "HorizontalPodAutoscaler"):
        spec = each["spec"]
        target = find(objects, spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
        if target is None:
            yield f"{name_of(each)}: its target does not exist"
            continue
        scaled.add(target["metadata"]["name"])
        if "replicas" in target["spec"]:
            yield f"{name_of(each)}: an upgrade would set its target's replicas back"
        if not 1 <= spec["minReplicas"] <= spec["maxReplicas"]:
            yield f"{name_of(each)}: minReplicas is above maxReplicas"
    for each in of_kind(objects, "Deployment"):
        if each["metadata"]["name"] not in scaled and "replicas" not in each["spec"]:
            yield f"{name_of(each)}: no replicas"


@rule
def monitors_find_targets(objects: list[Object]) -> Iterator[str]:
    """A ServiceMonitor selects Services, a PodMonitor pods, which have its ports by name."""
    pods = find_pods(objects)
    for each in of_kind(objects, "ServiceMonitor"):
        found = [one for one in of_kind(objects, "Service") if _selects_object(each["spec"]["selector"], one)]
        if not found:
            yield f"{name_of(each)}: it selects no Service"
        for endpoint in each["spec"]["endpoints"]:
            for one in found:
                if endpoint["port"] not in {port.get("name") for port in one["spec"]["ports"]}:
                    yield f"{name_of(each)}: {name_of(one)} has no port {endpoint['port']}"
    for each in of_kind(objects, "PodMonitor"):
        chosen = [pod for pod in pods if selects(each["spec"]["selector"], pod.labels)]
        if not chosen:
            yield f"{name_of(each)}: it selects no pods"
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            if not find_port(chosen, endpoint["port"]):
                yield f"{name_of(each)}: not every pod has a port {endpoint['port']}"
    for pod in pods if of_kind(objects, "ServiceMonitor", "PodMonitor") else ():
        scraped = [each for each in of_kind(objects, "ServiceMonitor", "PodMonitor") if _scrapes(each, pod, objects)]
        if len(scraped) != 1 and pod.lasts:
            yield f"{pod}: scraped by {', '.join(name_of(each) for each in scraped) or 'nothing'}"


def _selects_object(selector: Mapping[str, Any], each: Object) -> bool:
    return selects(selector, each["metadata"].get("labels") or {})


def _scrapes(monitor: Object, pod: Pod, objects: list[Object]) -> bool:
    selector = monitor["spec"]["selector"]
    if monitor["kind"] == "PodMonitor":
        return selects(selector, pod.labels)
    services = [each for each in of_kind(objects, "Service") if _selects_object(selector, each)]
    return any(selects({"matchLabels": each["spec"]["selector"]}, pod.labels) for each in services)


@rule
def policies_cover_pods(objects: list[Object]) -> Iterator[str]:
    """Where there are network policies, every pod that lasts is denied what none of them allows, in both directions."""
    policies = of_kind(objects, "NetworkPolicy")
    for pod in find_pods(objects) if policies else ():
        kinds = {
            kind
            for each in policies
            if selects(each["spec"]["podSelector"], pod.labels)
            for kind in each["spec"].get("policyTypes", ())
        }
        if pod.owner["kind"] != "RayCluster" and kinds != {"Ingress", "Egress"}:
            yield f"{pod}: policies of the types {', '.join(sorted(kinds)) or 'none'}"


@rule
def routes_lead_to_services(objects: list[Object]) -> Iterator[str]:
    """Ingress and HTTPRoute name Services and ports that exist."""
    wanted: list[tuple[Object, str, Any]] = []
    for each in of_kind(objects, "Ingress"):
        for entry in each["spec"].get("rules", ()):
            for path in entry["http"]["paths"]:
                service = path["backend"]["service"]
                wanted.append((each, service["name"], service["port"].get("name", service["port"].get("number"))))
    for each in of_kind(objects, "HTTPRoute"):
        for entry in each["spec"]["rules"]:
            wanted += [(each, backend["name"], backend["port"]) for backend in entry["backendRefs"]]
    for each, name, port in wanted:
        service = find(objects, "Service", name)
        ports = [] if service is None else service["spec"]["ports"]
        if not any(port in {one.get("name"), one["port"]} for one in ports):
            yield f"{name_of(each)}: there is no Service {name} with the port {port}"


@rule
def accounts_exist(objects: list[Object]) -> Iterator[str]:
    """Bindings name Roles of their namespace and accounts, and no rule has a wildcard."""
    for each in of_kind(objects, "Role"):
        for entry in each["rules"]:
            if any("*" in entry.get(field, ()) for field in ("apiGroups", "resources", "verbs")):
                yield f"{name_of(each)}: a wildcard"
            if not entry.get("apiGroups") or not entry.get("resources") or not entry.get("verbs"):
                yield f"{name_of(each)}: a rule without groups, resources or verbs"
    for each in of_kind(objects, "RoleBinding"):
        role = find(objects, each["roleRef"]["kind"], each["roleRef"]["name"])
        if role is None or role["metadata"].get("namespace") != each["metadata"].get("namespace"):
            yield f"{name_of(each)}: its Role is not in its namespace"
        for subject in each["subjects"]:
            if subject["kind"] != "ServiceAccount" or not subject.get("namespace"):
                yield f"{name_of(each)}: {subject['name']} is no account with a namespace"


@rule
def config_maps_exist(objects: list[Object]) -> Iterator[str]:
    """ConfigMaps that the release makes are used by a pod, under their names; hooks use nothing of the release."""
    made = {each["metadata"]["name"]: each for each in of_kind(objects, "ConfigMap")}
    used = set()
    for pod in find_pods(objects):
        named = set(_find_config_maps(pod))
        used |= named
        hook = "pre-" in (pod.owner["metadata"].get("annotations") or {}).get("helm.sh/hook", "")
        for name in sorted(named & set(made)):
            if hook and "helm.sh/hook" not in (made[name]["metadata"].get("annotations") or {}):
                yield f"{pod}: the hook needs {name}, which is made after it"
        prefix = next(iter(sorted(made)), "").rpartition("-")[0]
        yield from (
            f"{pod}: {name} does not exist" for name in sorted(named - set(made)) if name.startswith(prefix + "-")
        )
    for name, each in made.items():
        found_by_label = "grafana_dashboard" in (each["metadata"].get("labels") or {})
        if name not in used and not found_by_label and not _has_known_reader(each):
            yield f"ConfigMap {name}: nothing uses it"


def _has_known_reader(each: Object) -> bool:
    """Dashboards are found by a label that the values name."""
    return each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "dashboard"


def _find_config_maps(pod: Pod) -> Iterator[str]:
    for volume in pod.spec.get("volumes", ()):
        if "configMap" in volume:
            yield volume["configMap"]["name"]
        for source in (volume.get("projected") or {}).get("sources", ()):
            if "configMap" in source:
                yield source["configMap"]["name"]
    for part in pod.containers:
        yield from (source["configMapRef"]["name"] for source in part.get("envFrom", ()) if "configMapRef" in source)
        for entry in part.get("env", ()):
            source = (entry.get("valueFrom") or {}).get("configMapKeyRef")
            if source:
                yield source["name"]
