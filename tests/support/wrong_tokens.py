"""Signed tokens of every wrong make, whatever they are for: key, algorithm, issuer, audience, times, form."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.api_jws import PyJWS

from support.token_issuer import ec_key, rsa_key, sign_by_hand

MINUTE = 60


class Tokens(Protocol):
    """Makes tokens of one kind: access tokens (``TokenIssuer``) or log-out tokens."""

    @property
    def url(self) -> str: ...

    def claims(self, **others: Any) -> dict[str, Any]: ...

    def sign(self, claims: Any = None, **options: Any) -> str: ...


def now() -> int:
    return int(time.time())


def _public_pem() -> bytes:
    return rsa_key("first").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hmac_with_public_key(issuer: Tokens) -> str:
    """HS256 with the published key as the secret, which libraries refuse to sign."""
    token = sign_by_hand({"alg": "HS256", "kid": "first", "typ": "JWT"}, issuer.claims())
    signed = token.rpartition(".")[0]
    digest = hmac.new(_public_pem(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def sign_claims(issuer: Tokens, **claims: Any) -> str:
    """Sign claims that PyJWT refuses to put into a token."""
    payload = json.dumps(issuer.claims(**claims)).encode()
    return PyJWS().encode(payload, rsa_key("first"), algorithm="RS256", headers={"kid": "first"})


WRONG_TOKENS: dict[str, tuple[Callable[[Tokens], str], str]] = {
    "issuer": (lambda one: one.sign(one.claims(iss="https://evil.example")), "another issuer"),
    "issuer with a slash": (lambda one: one.sign(one.claims(iss=one.url + "/")), "another issuer"),
    "no issuer": (lambda one: one.sign(one.claims(iss=None)), "lacks the claim 'iss'"),
    "audience": (lambda one: one.sign(one.claims(aud="another")), "another audience"),
    "audiences": (lambda one: one.sign(one.claims(aud=["a", "b"])), "another audience"),
    "no audience": (lambda one: one.sign(one.claims(aud=None)), "lacks the claim 'aud'"),
    "part of the audience": (lambda one: one.sign(one.claims(aud=one.claims()["aud"] + "2")), "another audience"),
    "key": (lambda one: one.sign(key=rsa_key("stranger")), "signature"),
    "kid": (lambda one: one.sign(kid="invented", key=rsa_key("stranger"), algorithm="RS256"), "no key"),
    "kid that is a path": (lambda one: one.sign(kid="../../dev/null"), "no key"),
    "kid that is no text": (lambda one: sign_by_hand({"alg": "RS256", "kid": 7}, one.claims()), "not a JSON Web"),
    "key in the token": (
        lambda one: one.sign(key=rsa_key("stranger"), headers={"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}}),
        "signature",
    ),
    "address in the token": (lambda one: one.sign(key=rsa_key("stranger"), headers={"jku": one.url}), "signature"),
    "HS256 with the public key": (_hmac_with_public_key, "algorithm that is not accepted"),
    "none": (lambda one: sign_by_hand({"alg": "none"}, one.claims(), b""), "algorithm that is not accepted"),
    "None": (lambda one: sign_by_hand({"alg": "nOnE"}, one.claims(), b""), "algorithm that is not accepted"),
    "no algorithm": (lambda one: sign_by_hand({"kid": "first"}, one.claims()), "algorithm that is not accepted"),
    "algorithm that is no text": (lambda one: sign_by_hand({"alg": ["RS256"]}, one.claims()), "not accepted"),
    "another algorithm of the same key": (lambda one: one.sign(algorithm="RS512"), "no key"),
    "elliptic with the key of RSA": (
        lambda one: one.sign(key=ec_key("stranger"), algorithm="ES256"),
        "no key",
    ),
    "expired": (lambda one: one.sign(one.claims(exp=now() - 2 * MINUTE)), "expired"),
    "no expiry": (lambda one: one.sign(one.claims(exp=None)), "lacks the claim 'exp'"),
    "expiry that is no number": (lambda one: one.sign(one.claims(exp="soon")), "cannot be read"),
    "not before": (lambda one: one.sign(one.claims(nbf=now() + 2 * MINUTE)), "not valid yet"),
    "issued in the future": (lambda one: one.sign(one.claims(iat=now() + 2 * MINUTE)), "not valid yet"),
    "critical extension": (lambda one: one.sign(headers={"crit": ["new"], "new": 1}), "not a JSON Web Token"),
    "deep": (lambda one: sign_by_hand(b'{"a":' + b"[" * 9000, one.claims()), "not a JSON Web Token"),
    "head that is no JSON": (lambda one: sign_by_hand(b'{"alg"', one.claims()), "not a JSON Web Token"),
    "not base64": (lambda _: "ey!!.e30.e30", "not a JSON Web Token"),
    "empty parts": (lambda _: "ey..", "not a JSON Web Token"),
}
"""What makes each, and what is said of it."""
