"""An OpenID Connect provider that signs whatever tokens a test asks for: also wrong ones."""

from __future__ import annotations

import functools
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from support.answering import serving

AUDIENCE = "ingest"


@functools.cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of a name; made once per run, because that takes a tenth of a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class TokenIssuer:
    """The provider; ``keys`` are those that it publishes, by id, with their algorithm."""

    url: str = ""
    keys: dict[str, tuple[Any, str]] = field(default_factory=lambda: {"first": (rsa_key("first"), "RS256")})
    is_down: bool = False
    requests: list[str] = field(default_factory=list)
    """Paths of the requests it has received."""
    document: dict[str, Any] = field(default_factory=dict)
    """Members of the discovery document that differ."""
    public: Callable[[], list[dict[str, Any]]] | None = None
    """Returns its JSON Web Keys; None means those of ``keys``."""
    exchanges: list[dict[str, str]] = field(default_factory=list)
    """Forms that its token endpoint has received."""
    answer: Callable[[], tuple[int, Any]] = lambda: (400, {"error": "invalid_grant"})
    """Returns status and body of its token endpoint."""

    def claims(self, **others: Any) -> dict[str, Any]:
        """Claims of a good access token, with some replaced; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "groups": ["staff"],
            "iat": now,
            "nbf": now,
            "exp": now + 300,
        }
        return {name: value for name, value in {**good, **others}.items() if value is not None}

    def sign(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        kid: str | None = "first",
        key: Any = None,
        algorithm: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """A token, by default a good one of the first key."""
        own_key, own_algorithm = self.keys.get(str(kid), self.keys[next(iter(self.keys))])
        head = {**({} if kid is None else {"kid": kid}), **(headers or {})}
        return jwt.encode(
            dict(self.claims() if claims is None else claims),
            own_key if key is None else key,
            algorithm=algorithm or own_algorithm,
            headers=head,
        )

    def public_keys(self) -> list[dict[str, Any]]:
        return [
            {**_public(key), "kid": kid, "alg": algorithm, "use": "sig"} for kid, (key, algorithm) in self.keys.items()
        ]


@dataclass
class LogOutTokens:
    """The log-out tokens of a provider; wherever one of its access tokens is made, one of these can be."""

    issuer: TokenIssuer
    audience: str

    @property
    def url(self) -> str:
        return self.issuer.url

    def claims(self, **others: Any) -> dict[str, Any]:
        """Claims of a good log-out token for a session of ada, with some replaced; None leaves one out."""
        now = int(time.time())
        good = {
            "iss": self.url,
            "aud": self.audience,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_hex(8),
            "sub": "ada",
            "sid": "first",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        }
        return {name: value for name, value in {**good, **others}.items() if value is not None}

    def sign(self, claims: Mapping[str, Any] | None = None, **options: Any) -> str:
        """A token, by default a good one; as ``TokenIssuer.sign``."""
        headers = {"typ": "logout+jwt", **(options.pop("headers", None) or {})}
        return self.issuer.sign(self.claims() if claims is None else claims, headers=headers, **options)


def _public(key: PrivateKeyTypes) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return dict(algorithm.to_jwk(key.public_key(), as_dict=True))  # type: ignore[arg-type]


def sign_by_hand(head: Mapping[str, Any] | bytes, claims: Mapping[str, Any], signature: bytes = b"x") -> str:
    """A token with any head and signature, which libraries refuse to make."""
    parts = (head if isinstance(head, bytes) else orjson.dumps(head), orjson.dumps(claims), signature)
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@contextmanager
def issuing(**values: Any) -> Iterator[TokenIssuer]:
    """Serve a provider on loopback until the block ends."""
    issuer = TokenIssuer(**values)

    def discover(_: bytes) -> tuple[Any, ...]:
        issuer.requests.append("discovery")
        if issuer.is_down:
            return 503, {}
        endpoints = {
            "issuer": issuer.url,
            "jwks_uri": f"{issuer.url}/keys",
            "authorization_endpoint": f"{issuer.url}/authorize",
            "token_endpoint": f"{issuer.url}/token",
        }
        return 200, {**endpoints, **issuer.document}

    def show_keys(_: bytes) -> tuple[Any, ...]:
        issuer.requests.append("keys")
        return (503, {}) if issuer.is_down else (200, {"keys": (issuer.public or issuer.public_keys)()})

    def exchange(body: bytes) -> tuple[Any, ...]:
        issuer.exchanges.append(dict(parse_qsl(body.decode())))
        return issuer.answer()

    places = {"/.well-known/openid-configuration": discover, "/keys": show_keys, "/token": exchange}
    with serving(places) as url:
        issuer.url = url
        yield issuer
