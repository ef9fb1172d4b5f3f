"""What the holder of a token may do: rules from values of its claims to scopes and globs.

The first rule that matches decides. Rights of several rules are not united: the scopes of one and the globs of another
would together allow what neither does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ingestion_engine.access.oidc.tokens import Claims
from ingestion_engine.access.principal import Principal
from ingestion_engine.access.scopes import EVERYTHING, Scope, check_grants
from ingestion_engine.domain.errors import SubmissionError
from ingestion_engine.runtime.settings import OidcSettings, SettingsError
from ingestion_engine.runtime.timestamps import Moment
from ingestion_engine.runtime.validation import describe_faults

NAME_MAX: Final = 128
"""Length of the owner of a job in the database."""

PREFIX: Final = "oidc:"
"""Before names that come from tokens: whoever can choose a name at the provider must not take that of an API key."""

_ANY: Final = "*"
_SPACED: Final = frozenset({"scope", "scp"})
"""Claims whose text is a list of words (RFC 9068 section 2.2.3; ``scp`` at Microsoft)."""


class Rule(BaseModel):
    """What holders of tokens with a value may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str = Field(min_length=1, max_length=512)
    """Value of the claim, in full; ``*`` means every token of the audience."""
    claim: str | None = Field(default=None, min_length=1, max_length=256)
    """Claim; None means ``INGEST_OIDC__CLAIM``."""
    scopes: frozenset[Scope] = Field(min_length=1)
    buckets: tuple[str, ...] = EVERYTHING
    collections: tuple[str, ...] = EVERYTHING

    @model_validator(mode="after")
    def _check(self) -> Rule:
        check_grants(self.scopes, self.buckets, self.collections)
        return self


_RULES: Final = TypeAdapter(list[Rule])


class RuleBook:
    """The rules of the settings, in order.

    Raises:
        SettingsError: a rule is invalid, or their file cannot be read.
    """

    def __init__(self, settings: OidcSettings) -> None:
        self._claim = settings.claim
        self._name_claim = settings.name_claim
        self.rules: Sequence[Rule] = _read_rules(settings.rules, settings.rules_file)

    def make_principal(self, claims: Claims, *, expires_at: Moment | None) -> Principal:
        """Return the holder of a token that has been checked. Pure.

        Raises:
            SubmissionError: "unauthenticated" (401): the token has no name that can be used; "no_rule" (403): no rule
                allows its holder anything.
        """
        name = self._find_name(claims)
        for rule in self.rules:
            if rule.value == _ANY or rule.value in _list_values(claims, rule.claim or self._claim):
                return Principal(
                    name=name,
                    kind="oidc",
                    scopes=rule.scopes,
                    buckets=rule.buckets,
                    collections=rule.collections,
                    expires_at=expires_at,
                )
        raise self._no_rule(claims, name)

    def keep_claims(self, claims: Claims) -> dict[str, Any]:
        """Return the part of the claims from which ``make_principal`` makes the same again; for sessions. Pure."""
        wanted = {self._claim, self._name_claim, "email_verified", *(rule.claim for rule in self.rules if rule.claim)}
        found = {name: _find(claims, name) for name in sorted(wanted)}
        return {name: value for name, value in found.items() if value is not None}

    def _find_name(self, claims: Claims) -> str:
        value = _find(claims, self._name_claim)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            message = f"The token has no text in the claim {self._name_claim!r}, which names its holder."
            hint = "Have the provider add the claim, or set INGEST_OIDC__NAME_CLAIM to another one."
            raise SubmissionError("unauthenticated", message, hint=hint, status=401)
        if self._name_claim == "email" and claims.get("email_verified") is False:
            message = "The provider has not verified the e-mail address that names the token's holder."
            hint = "Confirm the address at the provider, then log in again."
            raise SubmissionError("unauthenticated", message, hint=hint, status=401)
        name = PREFIX + value
        if len(name) < NAME_MAX:  # else a name that is just that long could be the short form of another
            return name
        digest = hashlib.sha256(value.encode()).hexdigest()[:32]
        return f"{name[: NAME_MAX - len(digest) - 1]}~{digest}"

    def _no_rule(self, claims: Claims, name: str) -> SubmissionError:
        hint = f"Add a rule to INGEST_OIDC__RULES for a value of the claim {self._claim!r} of this account."
        if not _list_values(claims, self._claim):
            hint = f"Have the provider add the claim {self._claim!r} to its tokens, with a value that a rule names."
        if self._claim in (claims.get("_claim_names") or {}):
            hint = f"The provider leaves the claim {self._claim!r} out because it is too long: use roles instead."
        message = f"No rule allows {name!r} anything in this service."
        return SubmissionError("no_rule", message, hint=hint, status=403)


def _read_rules(rules: Sequence[dict[str, Any]], path: Path | None) -> Sequence[Rule]:
    variable = "INGEST_OIDC__RULES" if path is None else "INGEST_OIDC__RULES_FILE"
    try:
        return _RULES.validate_python(list(rules)) if path is None else _RULES.validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{variable}: Cannot read {str(path)!r}: {error.strerror}.") from error
    except ValidationError as error:
        raise SettingsError(f"{variable}: {describe_faults(error)}") from None


def _find(claims: Claims, path: str) -> Any:
    """Return a claim by its name, or by names of nested ones with dots; None when it is absent. Pure."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def _list_values(claims: Claims, path: str) -> frozenset[str]:
    """Return the texts of a claim; others than texts are ignored. Pure."""
    found = _find(claims, path)
    if isinstance(found, str):
        return frozenset(found.split()) if path in _SPACED else frozenset({found})
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()
