"""Parts of ``bench_gateway.py``: each measures one promise of the gateway and adds its targets to the report."""
