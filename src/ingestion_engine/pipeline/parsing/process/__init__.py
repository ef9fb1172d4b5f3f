"""Parsers in processes of their own, which can be killed; see docs/decisions/0021."""
