"""The terms of the product: frozen records, ids, the job spec, the error tree, ports.

Contains no I/O, no async code and no vendor libraries.
"""
