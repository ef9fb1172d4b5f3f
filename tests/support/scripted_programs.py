"""Programs that stand for the real Ollama, Qdrant and Weaviate on a machine's PATH.

Each accepts exactly the flags and variables of the real one that the stack uses, and refuses others of its kind; then
it becomes the stand-in of that system on the same ports.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HEAD = f"""#!{sys.executable}
import os, sys

def refuse(text):
    sys.exit("scripted program: " + text)

def take(name):
    return os.environ.pop(name, None) or refuse(name + " is not set")

def become(module, *flags, **variables):
    os.environ.update(variables)
    os.execv(sys.executable, [sys.executable, "-m", "ingestion_devstack." + module + ".server", *flags])

def check_rest(*prefixes):
    rest = [name for name in os.environ if name.startswith(prefixes)]
    if rest:
        refuse("unexpected variables " + ", ".join(rest))

arguments = sys.argv[1:]
if "INGEST_DATA_DIR" in os.environ:
    refuse("it sees the settings of the product")
"""

_OLLAMA = """
if arguments == ["--version"]:
    print("ollama version is 0.33.0"); sys.exit()
if arguments != ["serve"]:
    refuse("unexpected arguments")
host, _, port = take("OLLAMA_HOST").partition(":")
take("OLLAMA_MODELS")
become("ollama", "--host", host, "--port", port, "--test-models")
"""

_QDRANT = """
if arguments == ["--version"]:
    print("qdrant 1.19.0"); sys.exit()
if arguments != ["--disable-telemetry"]:
    refuse("unexpected arguments")
host, port, grpc = (take("QDRANT__SERVICE__" + name) for name in ("HOST", "HTTP_PORT", "GRPC_PORT"))
storage, key = take("QDRANT__STORAGE__STORAGE_PATH"), take("QDRANT__SERVICE__API_KEY")
take("QDRANT__STORAGE__SNAPSHOTS_PATH")
open(take("QDRANT_INIT_FILE_PATH"), "w").close()
check_rest("QDRANT")
become("qdrant", "--host", host, "--port", port, "--data-dir", storage, QDRANT_API_KEY=key)
"""

_WEAVIATE = """
if arguments[:4] != ["--scheme", "http", "--host", "127.0.0.1"] or arguments[4] != "--port" or len(arguments) != 6:
    refuse("unexpected arguments")
expected = {"AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false", "AUTHENTICATION_APIKEY_ENABLED": "true",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1", "CLUSTER_BIND_ADDR": "127.0.0.1", "RAFT_BOOTSTRAP_EXPECT": "1"}
for name, value in expected.items():
    if take(name) != value:
        refuse(name + " is not " + value)
key, data, grpc = take("AUTHENTICATION_APIKEY_ALLOWED_KEYS"), take("PERSISTENCE_DATA_PATH"), take("GRPC_PORT")
if len(take("AUTHENTICATION_APIKEY_USERS").split(",")) != len(key.split(",")):
    refuse("one user for each key")
if take("CLUSTER_BASIC_AUTH_PASSWORD") != key:
    refuse("the ports of the cluster have no password")
ports = [take(name) for name in ("CLUSTER_GOSSIP_BIND_PORT", "CLUSTER_DATA_BIND_PORT", "RAFT_PORT",
                                 "RAFT_INTERNAL_RPC_PORT")]
if len({*ports, grpc, arguments[5]}) != 6:
    refuse("two ports are the same")
for name in ("CLUSTER_HOSTNAME", "CLUSTER_BASIC_AUTH_USERNAME", "DEFAULT_VECTORIZER_MODULE", "GO_PROFILING_DISABLE"):
    take(name)
check_rest("AUTH", "CLUSTER_", "RAFT_")
become("weaviate", "--host", "127.0.0.1", "--port", arguments[5], "--grpc-port", grpc, "--data-dir", data,
       WEAVIATE_API_KEY=key)
"""

SCRIPTS = {"ollama": _OLLAMA, "qdrant": _QDRANT, "weaviate": _WEAVIATE}


def install_program(folder: Path, name: str) -> Path:
    """Write the program into a folder; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(_HEAD + SCRIPTS[name])
    path.chmod(0o755)
    return path
