"""Bare listing: programs that list a bucket and do nothing else, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time

LIST_WITH_BOTOCORE = """
import sys, time, botocore.session
from botocore.config import Config
s3 = botocore.session.get_session().create_client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
    aws_access_key_id="x", aws_secret_access_key="x", config=Config(s3={"addressing_style": "path"}))
started, token, count = time.perf_counter(), {}, 0
while True:
    page = s3.list_objects_v2(Bucket="docs", **token)
    count += len(page["Contents"])
    if not page["IsTruncated"]: break
    token = {"ContinuationToken": page["NextContinuationToken"]}
print(count, time.perf_counter() - started)
"""
LIST_WITH_OBSTORE = """
import sys, time, obstore
from obstore.store import S3Store
store = S3Store("docs", endpoint=sys.argv[1], region="us-east-1", access_key_id="x", secret_access_key="x",
    virtual_hosted_style_request=False, client_options={"allow_http": True})
started = time.perf_counter()
count = sum(len(page) for page in obstore.list(store, chunk_size=1000))
print(count, time.perf_counter() - started)
"""


def list_bare(url: str, program: str, keys: int) -> dict[str, float]:
    """List the bucket with a program that does nothing else; return the seconds of the loop and of its process."""
    started = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", program, url], check=True, stdout=subprocess.PIPE, text=True).stdout
    count, seconds = said.split()
    if int(count) != keys:
        raise RuntimeError(f"{count} keys listed, not {keys}")
    return {"loop_s": float(seconds), "process_s": time.perf_counter() - started}
