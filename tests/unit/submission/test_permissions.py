"""The permissions of the client of Kubernetes, as data, and the Role in the documentation."""

from pathlib import Path

import yaml

from ingestion_engine.submission.kubernetes.permissions import PERMISSIONS

DOCUMENT = Path(__file__).parents[3] / "docs/spark-manifest.md"


def test_the_documented_role_grants_exactly_the_permissions() -> None:
    """Each verb on each resource that the client uses is in the Role of docs/spark-manifest.md, and nothing else."""
    (block,) = (
        text.partition("```")[0]
        for text in DOCUMENT.read_text().split("```yaml\n")
        if text.startswith("apiVersion: rb")
    )
    role = next(item for item in yaml.safe_load_all(block) if item["kind"] == "Role")
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(one.group, one.resource, one.verb) for one in PERMISSIONS}
