"""Create the bucket of the state store and the buckets that are named, unless they exist; then exit.

``create_buckets.py [BUCKET ...]``, with the settings of the service.
"""

import sys
from http import HTTPStatus
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from ingestion_engine.adapters.s3.client import make_client, status_of
from ingestion_engine.runtime.settings import load_settings


def main(documents: list[str]) -> int:
    """Return the exit status; print one line per bucket."""
    settings = load_settings()
    s3 = settings.s3
    client = make_client(s3, ca_file=settings.tls.ca_file)
    state = urlsplit(settings.state_url or "")
    for bucket in [*([state.netloc] if state.scheme == "s3" else []), *documents]:
        try:
            client.head_bucket(Bucket=bucket)
            sys.stdout.write(f"Bucket {bucket!r} exists.\n")
            continue
        except ClientError as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                sys.stdout.write(f"Bucket {bucket!r} cannot be used: {error}\nCheck the keys and the policy.\n")
                return 1
        except BotoCoreError as error:
            sys.stdout.write(f"S3 cannot be reached: {error}\nCheck INGEST_S3__ENDPOINT_URL.\n")
            return 1
        try:
            elsewhere = not s3.endpoint_url and s3.region != "us-east-1"
            where = {"CreateBucketConfiguration": {"LocationConstraint": s3.region}} if elsewhere else {}
            client.create_bucket(Bucket=bucket, **where)
        except ClientError as error:
            sys.stdout.write(f"Bucket {bucket!r} cannot be created: {error}\nCreate it, then start again.\n")
            return 1
        sys.stdout.write(f"Bucket {bucket!r} created.\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
