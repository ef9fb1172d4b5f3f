"""Implementations of the ports, one package per vendor. What does not belong: decisions, calls between vendors."""
