"""Several gateways in front of the same servers: which of them owns which server, and its part of the caps.

Everything but ``polling`` is pure. What does not belong here: requests, queues, and the states of servers.
"""
