"""Refusals of the Weaviate stand-in. Where the real server refuses too, the text is its text (observed on 1.40.0-dev).

A request that the real server serves and this one does not is refused by name, never ignored: gRPC status
UNIMPLEMENTED, HTTP status 501, or 422 where it is a part of a definition or an object.
"""

from __future__ import annotations


def unsupported(feature: str) -> str:
    """Return the text of every refusal that the real server would not make."""
    return f"{feature} is not supported by the embedded Weaviate; point the settings at a real server"


class RequestRefusedError(ValueError):
    """The request is not valid. gRPC status UNKNOWN, as every error of Weaviate without a type."""


class UnsupportedError(RequestRefusedError):
    """A feature of Weaviate that the embedded one lacks. gRPC status UNIMPLEMENTED."""

    def __init__(self, feature: str) -> None:
        """Name the feature."""
        super().__init__(unsupported(feature))


class SchemaError(ValueError):
    """A definition or an alias is refused. HTTP status 422."""


class AliasClashesWithClassError(Exception):
    """An alias with the name of a class is refused. HTTP status 500, as in the real server."""


class UnknownAliasError(KeyError):
    """No alias has this name. HTTP status 404 without a body."""


class UnknownClassError(KeyError):
    """No class has this name; `str()` is the name."""

    def __str__(self) -> str:
        return str(self.args[0])


class ObjectRefusedError(ValueError):
    """An object breaks a rule of its class."""


class PropertyError(ValueError):
    """A value does not fit its property."""


class WrongDimensionError(ValueError):
    """A query vector has another length than the vectors of the class."""

    def __init__(self, got: int, expected: int) -> None:
        """Lengths in numbers of floats."""
        super().__init__(got, expected)
        self.got = got
        self.expected = expected
