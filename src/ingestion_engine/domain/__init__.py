"""The terms of the product: frozen records, ids, the job spec, the error tree, ports.

What does not belong: I/O, async code, vendor libraries.
"""
