"""What the chart makes of values: variables, ports, and sentences about combinations that cannot work."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from helm_python import HelmError

from ingestion_engine import __version__
from ingestion_engine.submission.kubernetes.pod_templates import read_pod_templates
from support.charts.rendering import CHART, EXAMPLES, find_refusal, merge, read_values, read_yaml, render, render_files

_MINIMAL = read_values(next(path for path in EXAMPLES if path.stem == "minimal-ray"))
_SPARK = {"spark": {"enabled": True}}
_HOST = {"enabled": True, "hosts": [{"host": "ingest.example.com"}]}
_PARENT = {"enabled": True, "parentRefs": [{"name": "public"}]}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no database": ({"existingSecret": ""}, "No database: name a Secret with INGEST_DATABASE_URL"),
    "no state store": ({"config": {"state_url": ""}}, "No state store: set config.state_url"),
    "state in a directory": ({"config": {"state_url": "file:///data"}}, "config.state_url is a directory"),
    "no embedder": ({"config": {"ollama": {"urls": []}}}, "No embedder: set config.ollama.urls"),
    "loopback": ({"config": {"qdrant": {"url": "http://localhost:6333"}}}, "INGEST_QDRANT__URL is a loopback address"),
    "two gateways": ({"config": {"gateway": {"url": ["http://g:11430"]}}}, "name two gateways"),
    "two Ray clusters": ({"rayCluster": {"enabled": True}}, "name two Ray clusters"),
    "a gateway that Ray does not reach": ({"networkPolicy": {"gateway": {"from": []}}}, "would not reach the gateway"),
    "workers": (
        {"config": {"ray": {"address": None}}, "rayCluster": {"enabled": True, "workers": {"minReplicas": 3}}},
        "rayCluster.workers.minReplicas is greater than maxReplicas",
    ),
    "Spark without an image": (merge(_SPARK, {"spark": {"image": {"repository": ""}}}), "needs spark.image.repository"),
    "Spark without an account": (
        merge(_SPARK, {"spark": {"jobServiceAccount": {"create": False}}}),
        "needs spark.jobServiceAccount.name",
    ),
    "a Role for everybody": (merge(_SPARK, {"serviceAccount": {"create": False}}), "would let every pod"),
    "Kueue without a queue": (merge(_SPARK, {"kueue": {"enabled": True}}), "needs kueue.queueName"),
    "Kueue without jobs": ({"kueue": {"enabled": True, "queueName": "q"}}, "nothing to put into the queue"),
    "a cluster that scales in a queue": (
        {
            "config": {"ray": {"address": None}},
            "rayCluster": {"enabled": True, "autoscaling": {"enabled": True}},
            "kueue": {"enabled": True, "queueName": "q"},
        },
        "Kueue refuses a RayCluster that scales",
    ),
    "two queues": (
        merge(
            _SPARK,
            {"kueue": {"enabled": True, "queueName": "q"}, "spark": {"labels": {"kueue.x-k8s.io/queue-name": "r"}}},
        ),
        "both name a queue",
    ),
    "nothing": (
        {part: {"enabled": False} for part in ("api", "dispatcher", "gateway")},
        "Nothing to install",
    ),
    "replicas and autoscaling": (
        {"api": {"replicas": 3, "autoscaling": {"enabled": True}}},
        "api.replicas and api.autoscaling.enabled both decide",
    ),
    "autoscaling bounds": (
        {"api": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        "api.autoscaling.minReplicas is greater",
    ),
    "autoscaling without a request": (
        {"api": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}},
        "api.autoscaling needs api.resources.requests.cpu",
    ),
    "a budget of two kinds": ({"api": {"podDisruptionBudget": {"minAvailable": 1}}}, "both minAvailable and"),
    "a budget of one copy": (
        {"gateway": {"replicas": 1, "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": None}}},
        "gateway.podDisruptionBudget.minAvailable is the number of copies",
    ),
    "a budget of all": (
        {"api": {"podDisruptionBudget": {"minAvailable": "100%", "maxUnavailable": None}}},
        "api.podDisruptionBudget.minAvailable is the number of copies",
    ),
    "two ways in": ({"ingress": _HOST, "httpRoute": _PARENT}, "would publish the API twice"),
    "a way to nothing": ({"ingress": _HOST, "api": {"enabled": False}}, "lead to the API, which api.enabled"),
    "no host": ({"ingress": {"enabled": True}}, "ingress.enabled needs ingress.hosts"),
    "no parent": ({"httpRoute": {"enabled": True}}, "httpRoute.enabled needs httpRoute.parentRefs"),
    "no keys": ({"auth": {"existingSecret": ""}}, "reaches the API in the cluster could read, change and delete"),
    "no keys behind an Ingress": ({"auth": {"existingSecret": ""}, "ingress": _HOST}, "from outside of the cluster"),
    "no keys behind a route": ({"auth": {"existingSecret": ""}, "httpRoute": _PARENT}, "from outside of the cluster"),
    "no keys on nodes": (
        {"auth": {"existingSecret": ""}, "api": {"service": {"type": "NodePort"}}},
        "from outside of the cluster",
    ),
    "keys and everybody": ({"auth": {"allowEverybody": True}}, "contradict each other"),
    "keys of the database and everybody": (
        {"auth": {"existingSecret": "", "databaseKeys": True, "allowEverybody": True}},
        "contradict each other",
    ),
    "a provider and everybody": (
        {"auth": {"existingSecret": "", "allowEverybody": True}, "config": {"oidc": {"issuer": "https://id.example"}}},
        "contradict each other",
    ),
    "two authorities": ({"tls": {"existingConfigMap": "a", "existingSecret": "b"}}, "both name the authorities"),
    "migrations at the start": (
        {"migrations": {"mode": "start", "existingSecret": "owner"}},
        "migrations.existingSecret is used by a Job only",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_with_a_sentence(case: str) -> None:
    """The sentence names the values, and nothing else is at fault."""
    values, sentence = REFUSED[case]
    lines = [line for line in find_refusal(merge(_MINIMAL, values)).splitlines()[1:] if line]
    assert len(lines) == 1
    assert sentence in lines[0]
    assert lines[0].endswith(".")


def test_a_name_that_no_service_may_have() -> None:
    """Services are named as DNS-1035 labels before Kubernetes 1.36; another name is told, and helps."""
    sentence = "The release's name begins with a digit, which the name of a Service must not: set fullnameOverride."
    with pytest.raises(HelmError, match=sentence):
        render(_MINIMAL, release="2026")
    assert render(merge(_MINIMAL, {"fullnameOverride": "engine"}), release="2026")


def test_every_sentence_has_a_case() -> None:
    """Each sentence of the template is one that a case above has seen."""
    template = (CHART / "templates" / "_validate.tpl").read_text(encoding="utf-8")
    sentences = re.findall(r'append \$faults \(?(?:printf )?"([^"]*)"', template)
    assert len(sentences) == template.count("append $faults")
    said = " ".join(find_refusal(merge(_MINIMAL, values)) for values, _ in REFUSED.values())
    sentences.remove(
        "The release's name begins with a digit, which the name of a Service must not: set fullnameOverride."
    )
    for sentence in sentences:
        assert re.search(".*".join(map(re.escape, sentence.split("%s"))), said), sentence


def test_all_faults_are_told_at_once() -> None:
    """Default values have no database, no state store and no embedder: one attempt tells all of it."""
    found = find_refusal({})
    assert [word in found for word in ("No database", "No state store", "No embedder")] == [True] * 3


def _variables(values: dict[str, Any]) -> dict[str, str]:
    objects = render(merge(_MINIMAL, values), release="ingest", namespace="search")
    found = next(
        each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith("-config")
    )
    data: dict[str, str] = found["data"]
    return data


def test_settings_become_variables() -> None:
    """Large numbers stay whole, lists are joined, false is said, null is left out."""
    found = _variables(
        {
            "config": {
                "worker": {"object_max_bytes": 1073741824},
                "embed": {"texts_per_second": 250.5, "in_flight": None},
                "ocr": {"enabled": False},
                "ollama": {"urls": ["http://a:11434#8", "dns+http://b:11434"]},
            }
        }
    )
    assert found["INGEST_WORKER__OBJECT_MAX_BYTES"] == "1073741824"
    assert found["INGEST_EMBED__TEXTS_PER_SECOND"] == "250.5"
    assert found["INGEST_OCR__ENABLED"] == "false"
    assert found["INGEST_OLLAMA__URLS"] == "http://a:11434#8,dns+http://b:11434"
    assert "INGEST_EMBED__IN_FLIGHT" not in found
    assert found["INGEST_GATEWAY__URL"] == "dns+http://ingest-ingestion-engine-gateway.search.svc:11430"


def test_the_service_knows_its_names() -> None:
    """Those of its Service, of Ingress and HTTPRoute, and those that are named; browsers use the first one outside."""
    service = "ingest-ingestion-engine-api"
    inner = [f"{service}{end}" for end in ("", ".search", ".search.svc", ".search.svc.cluster.local")]
    found = _variables({})
    assert found["INGEST_API__ALLOWED_HOSTS"].split(",") == inner
    assert "INGEST_API__PUBLIC_URL" not in found
    for own in (["a.example", "b.example"], "a.example,b.example"):
        found = _variables({"ingress": _HOST, "clusterDomain": "c.internal", "config": {"api": {"allowed_hosts": own}}})
        names = [*inner[:3], f"{service}.search.svc.c.internal", "ingest.example.com", "a.example", "b.example"]
        assert found["INGEST_API__ALLOWED_HOSTS"].split(",") == names
        assert found["INGEST_API__PUBLIC_URL"] == "http://ingest.example.com"
    tls = {"ingress": {**_HOST, "tls": [{"hosts": ["ingest.example.com"], "secretName": "x"}]}}
    assert _variables(tls)["INGEST_API__PUBLIC_URL"] == "https://ingest.example.com"
    own = {"config": {"api": {"public_url": "https://other.example.com"}}}
    assert _variables(merge(tls, own))["INGEST_API__PUBLIC_URL"] == "https://other.example.com"
    route = {"httpRoute": {**_PARENT, "hostnames": ["*.example.com"]}}
    found = _variables(route)
    assert found["INGEST_API__ALLOWED_HOSTS"].split(",") == [*inner, "*.example.com"]
    assert "INGEST_API__PUBLIC_URL" not in found


def test_ways_to_log_in_become_variables() -> None:
    """Rules of a provider are JSON; what opens the service to everybody is said in words."""
    rules = [{"value": "team", "scopes": ["read"], "collections": ["docs-*"]}]
    oidc = {"issuer": "https://id.example.com", "client_id": "ingest", "rules": rules}
    found = _variables({"auth": {"existingSecret": ""}, "config": {"oidc": oidc}})
    assert json.loads(found["INGEST_OIDC__RULES"]) == rules
    assert not {"INGEST_API__ALLOW_ANONYMOUS", "INGEST_API__DATABASE_KEYS"} & set(found)
    assert _variables({"auth": {"existingSecret": "", "databaseKeys": True}})["INGEST_API__DATABASE_KEYS"] == "true"
    assert _variables({"auth": {"existingSecret": "", "allowEverybody": True}})["INGEST_API__ALLOW_ANONYMOUS"] == "true"


def test_engines_of_the_chart_become_variables() -> None:
    values = {
        "config": {"ray": {"address": None}},
        "rayCluster": {"enabled": True},
        "spark": {"enabled": True, "namespace": "jobs", "existingSecret": "workers", "labels": {"team": "search"}},
        "kueue": {"enabled": True, "queueName": "batch"},
    }
    found = _variables(values)
    assert found["INGEST_RAY__ADDRESS"] == "http://ingest-ingestion-engine-ray-head-svc.search.svc:8265"
    assert found["INGEST_SPARK__NAMESPACE"] == "jobs"
    assert found["INGEST_SPARK__IMAGE"] == f"registry.example.com/team/ingestion-engine-spark:{__version__}"
    assert found["INGEST_SPARK__SECRET_NAME"] == "workers"
    assert found["INGEST_SPARK__SERVICE_ACCOUNT"] == "ingest-ingestion-engine-search-spark"
    assert found["INGEST_SPARK__LABELS"] == "team=search,kueue.x-k8s.io/queue-name=batch"
    assert "INGEST_SPARK__POD_TEMPLATE" not in found


def _ports(values: dict[str, Any], name: str) -> set[int]:
    objects = render(merge(_MINIMAL, values), release="ingest", namespace="search")
    policy = next(
        each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["name"].endswith(name)
    )
    return {port["port"] for one in policy["spec"].get("egress", ()) for port in one["ports"]}


def _rules(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    objects = render(merge(_MINIMAL, values), release="ingest", namespace="search")
    policy = next(
        each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == f"ingest-{name}"
    )
    rules: list[dict[str, Any]] = policy["spec"]["egress"]
    return rules


def test_the_service_reaches_no_other_ray_than_the_chart_s() -> None:
    """Unless a peer is named; the address of another cluster may lead anywhere."""

    def find_peers(values: dict[str, Any]) -> Any:
        rules = _rules(merge({"fullnameOverride": "ingest"}, values), "systems")
        return next(rule for rule in rules if rule["ports"][0]["port"] == 8265).get("to")

    own = {"config": {"ray": {"address": None}}, "rayCluster": {"enabled": True}}
    named = [{"ipBlock": {"cidr": "10.1.0.0/28"}}]
    assert find_peers(own) == [{"podSelector": {"matchLabels": {"ray.io/cluster": "ingest-ray"}}}]
    assert find_peers(merge(own, {"networkPolicy": {"egress": {"ray": {"to": named}}}})) == named
    assert find_peers({}) is None


def test_names_are_resolved_at_another_port_where_it_is_set() -> None:
    """DNS of OpenShift listens on port 5353 of its pods."""
    values = {"networkPolicy": {"egress": {"dns": {"ports": [5353]}}}}
    [rule] = _rules(values, "ingestion-engine")
    assert rule == {"ports": [{"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"}]}
    assert _ports({}, "-engine") == {53}


def test_pods_of_spark_pull_with_the_same_secrets() -> None:
    """Kubernetes gives the pull secrets of an account to its pods."""
    values = {"spark": {"enabled": True, "namespace": "jobs"}, "imagePullSecrets": [{"name": "registry"}]}
    accounts = [each for each in render(merge(_MINIMAL, values)) if each["kind"] == "ServiceAccount"]
    given = {each["metadata"]["namespace"]: each.get("imagePullSecrets") for each in accounts}
    assert given == {"ingest": None, "jobs": [{"name": "registry"}]}


def test_commands_of_the_pages_name_what_the_chart_makes() -> None:
    """Deployments, Services and the RayCluster, for the release `ingest` that the pages install."""
    values = {"config": {"ray": {"address": None}}, "rayCluster": {"enabled": True}}
    objects = render(merge(_MINIMAL, values), release="ingest")
    made = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects}
    for page in ("deploy/kubernetes.md", "operate/upgrading.md"):
        text = (CHART.parents[2] / "docs" / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:deployment|service)/ingest[a-z-]*", text))
        named |= {f"raycluster/{name}" for name in re.findall(r"ray\.io/cluster=(ingest[a-z-]*)", text)}
        assert named <= made, page
        assert named or "upgrading" in page


def test_the_way_back_of_the_database_changes_the_command_of_the_job() -> None:
    """docs/operate/upgrading.md replaces it with `sed`, and creates the Job without Helm."""
    page = (CHART.parents[2] / "docs" / "operate" / "upgrading.md").read_text(encoding="utf-8")
    [found] = re.findall(r"sed 's/(.+?)/(.+?)/'", page)
    files = render_files(merge(_MINIMAL, {"migrations": {"mode": "job"}}), release="ingest")
    [text] = [each for name, each in files.items() if name.endswith("templates/migrations.yaml")]
    [job] = read_yaml(text.replace(found[0].replace("\\", ""), found[1]))
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["ingest", "migrate", "--back-to", "VERSION"]
    assert "annotations" not in job["metadata"]


def test_ports_of_the_policy_follow_from_the_urls() -> None:
    """Those of the schemes where a URL has none, and gRPC's of Weaviate; capacities of Ollama are no ports."""
    config = {
        "s3": {"endpoint_url": "http://minio:9000"},
        "ollama": {"urls": "https://ollama.example.com#4, dns+http://ollama:11434#2"},
        "qdrant": {"url": "https://qdrant.example.com"},
        "weaviate": {"url": "http://weaviate:8081", "grpc_url": None},
        "ray": {"address": "http://[fd00::1]:8265"},
    }
    assert _ports({"config": config}, "-systems") == {9000, 443, 11434, 8081, 50051, 8265, 11430}
    assert _ports({"config": config, "gateway": {"enabled": False}}, "-systems") >= {443, 11434}
    assert _ports({"networkPolicy": {"egress": {"qdrant": {"ports": [7000]}}}}, "-systems") >= {443, 7000, 50051}
    assert 6333 not in _ports({"networkPolicy": {"egress": {"qdrant": {"ports": [7000]}}}}, "-systems")
    assert _ports({"config": config}, "-gateway") == {443, 11434, 11430}


def test_authorities_reach_every_pod_at_one_path(tmp_path: Path) -> None:
    """The path that the service passes to drivers and workers exists in their pods too."""
    values = {
        "config": {"ray": {"address": None}},
        "tls": {"existingConfigMap": "company-ca", "key": "ca.pem"},
        "rayCluster": {"enabled": True},
        "spark": {"enabled": True, "podTemplate": {"executor": {"spec": {"nodeSelector": {"pool": "batch"}}}}},
    }
    objects = render(merge(_MINIMAL, values), release="ingest", namespace="search")
    template = next(each for each in objects if each["metadata"]["name"].endswith("-spark-template"))
    file = tmp_path / "pod-template.yaml"
    file.write_text(template["data"]["pod-template.yaml"], encoding="utf-8")
    found = read_pod_templates(file)
    assert found is not None
    roles = [found[role]["spec"] for role in ("driver", "executor")]
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] in {"Deployment", "Job"}]
    ray = next(each for each in objects if each["kind"] == "RayCluster")["spec"]
    pods += [ray["headGroupSpec"]["template"]["spec"], ray["workerGroupSpecs"][0]["template"]["spec"], *roles]
    assert len(pods) == 8
    for pod in pods:
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["ca"] == "/etc/ingest/ca"
        volume = next(volume for volume in pod["volumes"] if volume["name"] == "ca")
        assert volume["configMap"] == {"name": "company-ca", "items": [{"key": "ca.pem", "path": "ca.pem"}]}
    assert roles[1]["nodeSelector"] == {"pool": "batch"}
    assert _variables(values)["INGEST_TLS__CA_FILE"] == "/etc/ingest/ca/ca.pem"


def test_versions_are_those_of_the_package() -> None:
    """The tag of the images, and Ray's version, which KubeRay compares with its token authentication."""
    chart = read_values(CHART / "Chart.yaml")
    assert chart["appVersion"] == __version__
    assert read_values(CHART / "values.yaml")["rayCluster"]["rayVersion"] == version("ray")


def test_every_example_is_in_the_readme() -> None:
    """The table of README.md names each file of examples/, and no other."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\(examples/([^)]+)\)", text)) == {path.name for path in EXAMPLES}


def test_workers_read_no_more_than_their_secrets() -> None:
    """Without a Secret of their own, Ray's pods get four keys of that of the service: never the database's."""
    values = {"config": {"ray": {"address": None}}, "rayCluster": {"enabled": True}}
    ray = next(each for each in render(merge(_MINIMAL, values)) if each["kind"] == "RayCluster")["spec"]
    for template in (ray["headGroupSpec"]["template"], ray["workerGroupSpecs"][0]["template"]):
        volume = next(volume for volume in template["spec"]["volumes"] if volume["name"] == "secrets")
        sources = [source["secret"] for source in volume["projected"]["sources"]]
        assert {item["key"] for source in sources for item in source["items"]} == {
            "INGEST_S3__ACCESS_KEY_ID",
            "INGEST_S3__SECRET_ACCESS_KEY",
            "INGEST_QDRANT__API_KEY",
            "INGEST_WEAVIATE__API_KEY",
        }
        assert all(source["optional"] and source["name"] == "ingestion-engine" for source in sources)


@pytest.mark.parametrize(
    ("values", "secret", "key"),
    [
        ({}, "ingestion-engine", "INGEST_DATABASE_URL"),
        ({"database": {"existingSecret": "db", "key": "uri"}}, "db", "uri"),
        ({"database": {"existingSecret": "db", "key": "uri"}, "existingSecret": ""}, "db", "uri"),
    ],
)
def test_no_pod_starts_without_the_url_of_the_database(values: dict[str, Any], secret: str, key: str) -> None:
    """A pod would make an SQLite database of its own; the key is named, and not optional."""
    objects = render(merge(_MINIMAL, values))
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
    volumes = [volume for pod in pods for volume in pod["volumes"] if volume["name"] == "secrets"]
    assert len(volumes) == 2
    for volume in volumes:
        found = [source["secret"] for source in volume["projected"]["sources"] if "items" in source["secret"]]
        assert found == [{"name": secret, "items": [{"key": key, "path": "INGEST_DATABASE_URL"}]}]
    job = next(each for each in objects if each["kind"] == "Job")["spec"]["template"]["spec"]
    volume = next(volume for volume in job["volumes"] if volume["name"] == "secrets")["secret"]
    assert (volume["secretName"], volume["items"][0]["key"]) == (secret, key)


def test_alerts_and_dashboard_are_the_files() -> None:
    """Prometheus and Grafana get what the tests of both files have checked; only the runbooks get an address."""
    metrics = {"rules": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": True}}
    objects = render(merge(_MINIMAL, {"metrics": metrics}))
    rule = next(each for each in objects if each["kind"] == "PrometheusRule")
    text = (CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
    assert rule["spec"] == read_yaml(text)[0]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    dashboard = next(each for each in objects if each["metadata"]["labels"].get("grafana_dashboard") == "1")
    file = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
    assert json.loads(dashboard["data"]["ingestion-engine.json"]) == file
    metrics["rules"]["runbookBase"] = "https://example.com/ingest/"
    objects = render(merge(_MINIMAL, {"metrics": metrics}))
    rule = next(each for each in objects if each["kind"] == "PrometheusRule")
    runbooks = {one["annotations"]["runbook_url"] for group in rule["spec"]["groups"] for one in group["rules"]}
    assert all(url.startswith("https://example.com/ingest/docs/operate/") for url in runbooks)
