"""Every documented error of a vendor becomes a product error, and every product error survives a process boundary."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator

import aiohttp
import grpc
import httpx
import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from ingestion_engine.adapters.ollama.responses import translate_response as translate_ollama
from ingestion_engine.adapters.qdrant import responses as qdrant_responses
from ingestion_engine.adapters.s3 import client as s3_client
from ingestion_engine.adapters.s3.client import Place, s3_errors, translate_response
from ingestion_engine.adapters.transport import MISCONFIGURED, transport_errors
from ingestion_engine.adapters.weaviate import responses as weaviate_responses
from ingestion_engine.domain import errors
from ingestion_engine.domain.errors import (
    CollectionMissing,
    FatalError,
    IngestionError,
    ObjectError,
    ObjectGone,
    ObjectUnreadable,
    PointsRefused,
    StateConflict,
    SubmissionError,
    TransientError,
)

OBJECT = Place("docs", "a.txt")
BUCKET = Place("docs")
STATE = Place("docs", "jobs/x", is_state=True)


def every_subclass(root: type[BaseException]) -> Iterator[type[BaseException]]:
    for kind in root.__subclasses__():
        yield kind
        yield from every_subclass(kind)


def make_bare(kind: type[BaseException]) -> BaseException:
    """Return an instance without calling a constructor that requires details."""
    error = kind.__new__(kind)
    error.args = ("planted",)
    return error


class TestProductErrors:
    """The product's error tree."""

    @pytest.mark.parametrize(
        "kind",
        [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, IngestionError)],
    )
    def test_every_error_pickles(self, kind: type[IngestionError]) -> None:
        """Type, code, message, hint and context are kept; an error that cannot be pickled loses a worker's report."""
        error = kind("some_code", "a message", hint="do this", bucket="docs", refused={"id": "why"})
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert (copy.code, copy.message, copy.hint) == ("some_code", "a message", "do this")
        assert copy.context["refused"] == {"id": "why"}
        assert copy.record() == error.record()
        assert str(copy) == "a message"

    def test_submission_errors_keep_status_and_field(self) -> None:
        """They become status and pointer of the response."""
        copy = pickle.loads(pickle.dumps(SubmissionError("c", "m", status=409, field="source.bucket")))
        assert (copy.status, copy.field) == (409, "source.bucket")

    def test_every_error_has_exactly_one_reaction(self) -> None:
        """No class belongs to two branches; a conflict has a branch of its own: its caller decides."""
        branches = (ObjectError, TransientError, FatalError, SubmissionError, StateConflict)
        for kind in every_subclass(IngestionError):
            assert sum(issubclass(kind, branch) for branch in branches) == 1, kind


class TestS3:
    """botocore's own errors, and S3's responses."""

    @pytest.mark.parametrize("kind", [*every_subclass(boto.BotoCoreError), ResponseParserError])
    def test_every_botocore_error_is_translated(self, kind: type[Exception]) -> None:
        """Connections, time-outs and credential services are transient; settings are not."""
        with pytest.raises(IngestionError) as raised, s3_errors(BUCKET):
            raise make_bare(kind)
        assert type(raised.value) in (TransientError, FatalError)
        assert raised.value.__cause__ is not None
        assert isinstance(raised.value, TransientError) == issubclass(kind, s3_client.transient_errors())

    @pytest.mark.parametrize(
        "kind",
        [
            boto.ConnectTimeoutError,
            boto.ReadTimeoutError,
            boto.EndpointConnectionError,
            boto.ConnectionClosedError,
            boto.ProxyConnectionError,
            boto.SSLError,
            boto.IncompleteReadError,
            boto.ResponseStreamingError,
        ],
    )
    def test_network_errors_are_transient(self, kind: type[Exception]) -> None:
        """Listed one by one, so that a wrong entry in the adapter's list fails the test."""
        with pytest.raises(TransientError), s3_errors(OBJECT):
            raise make_bare(kind)

    @pytest.mark.parametrize(
        "kind", [boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.ParamValidationError]
    )
    def test_invalid_settings_are_fatal(self, kind: type[Exception]) -> None:
        """A retry does not correct them."""
        with pytest.raises(FatalError), s3_errors(OBJECT):
            raise make_bare(kind)

    @pytest.mark.parametrize(
        ("status", "code", "of_object", "of_bucket", "of_state"),
        [
            (500, "InternalError", TransientError, TransientError, TransientError),
            (503, "SlowDown", TransientError, TransientError, TransientError),
            (503, "", TransientError, TransientError, TransientError),
            (429, "", TransientError, TransientError, TransientError),
            (400, "RequestTimeout", TransientError, TransientError, TransientError),
            (400, "ThrottlingException", TransientError, TransientError, TransientError),
            (409, "OperationAborted", TransientError, TransientError, TransientError),
            (404, "NoSuchBucket", FatalError, FatalError, FatalError),
            (404, "NoSuchKey", ObjectGone, TransientError, StateConflict),
            (404, "404", TransientError, TransientError, TransientError),
            (404, "", TransientError, TransientError, TransientError),
            (403, "403", TransientError, TransientError, TransientError),
            (412, "412", TransientError, TransientError, TransientError),
            (400, "400", TransientError, TransientError, TransientError),
            (404, "NoSuchVersion", TransientError, TransientError, TransientError),
            (404, "NoSuchUpload", TransientError, TransientError, TransientError),
            (403, "AccessDenied", ObjectUnreadable, FatalError, FatalError),
            (403, "InvalidObjectState", ObjectUnreadable, FatalError, FatalError),
            (400, "KMS.DisabledException", ObjectUnreadable, FatalError, FatalError),
            (416, "InvalidRange", ObjectUnreadable, FatalError, FatalError),
            (403, "InvalidAccessKeyId", FatalError, FatalError, FatalError),
            (403, "SignatureDoesNotMatch", FatalError, FatalError, FatalError),
            (403, "RequestTimeTooSkewed", FatalError, FatalError, FatalError),
            (400, "ExpiredToken", FatalError, FatalError, FatalError),
            (400, "AuthorizationHeaderMalformed", FatalError, FatalError, FatalError),
            (409, "ConditionalRequestConflict", TransientError, TransientError, TransientError),
            (412, "PreconditionFailed", ObjectUnreadable, FatalError, StateConflict),
        ],
    )
    def test_responses(
        self,
        status: int,
        code: str,
        of_object: type[IngestionError],
        of_bucket: type[IngestionError],
        of_state: type[IngestionError],
    ) -> None:
        """The same response has different meanings for an object, a bucket and the state store."""
        response = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        answer = boto.ClientError(response, "GetObject")
        kinds = [type(translate_response(answer, place)) for place in (OBJECT, BUCKET, STATE)]
        assert kinds == [of_object, of_bucket, of_state]

    @pytest.mark.parametrize(
        ("operation", "permission"),
        [("PutObject", "s3:PutObject"), ("DeleteObject", "s3:DeleteObject"), ("ListObjectsV2", "s3:ListBucket")],
    )
    def test_a_denial_names_operation_and_permission(self, operation: str, permission: str) -> None:
        """Of the many things that a state store does, the one that is not allowed is said, and how to allow it."""
        response = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        error = translate_response(boto.ClientError(response, operation), STATE)
        assert operation in error.message
        assert permission in error.hint
        assert error.context["operation"] == operation


def make_planted(kind: type[BaseException]) -> BaseException:
    """Return a bare instance with a text; aiohttp's errors have none without their details."""
    return make_bare(type(kind.__name__, (kind,), {"__str__": lambda _: "planted", "host": "q"}))


class TestTransport:
    """aiohttp, for all servers called over HTTP."""

    @pytest.mark.parametrize("kind", list(dict.fromkeys([*every_subclass(aiohttp.ClientError), ValueError])))
    def test_every_aiohttp_error_is_translated(self, kind: type[Exception]) -> None:
        """Connections and time-outs are transient; invalid URLs and headers are fatal."""
        with pytest.raises(IngestionError) as raised, transport_errors("qdrant", "http://q"):
            raise make_planted(kind)
        expected = FatalError if issubclass(kind, MISCONFIGURED) or kind is ValueError else TransientError
        assert type(raised.value) is expected
        assert "http://q" in raised.value.message

    @pytest.mark.parametrize(
        "kind",
        [
            aiohttp.ClientConnectorError,
            aiohttp.ClientConnectorDNSError,
            aiohttp.ClientConnectorCertificateError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ServerTimeoutError,
            aiohttp.ServerDisconnectedError,
            aiohttp.ClientPayloadError,
            ConnectionResetError,
            TimeoutError,
        ],
    )
    def test_network_errors_are_transient(self, kind: type[Exception]) -> None:
        """Listed one by one."""
        with pytest.raises(TransientError), transport_errors("qdrant", "http://q"):
            raise make_planted(kind)


class TestOllama:
    """Statuses of Ollama's API that do not concern a text."""

    @pytest.mark.parametrize(
        ("status", "text", "kind"),
        [
            (404, 'model "x" not found, try pulling it first', FatalError),
            (404, "model 'x:latest' not found", FatalError),
            (404, "no route to the model server", TransientError),
            (404, "404 page not found", TransientError),
            (400, "invalid model name", FatalError),
            (401, "unauthorized", FatalError),
            (403, "forbidden", FatalError),
            (499, "request canceled", TransientError),
            (500, "llama runner process has terminated", TransientError),
            (503, "server busy, please try again.  maximum pending requests exceeded", TransientError),
        ],
    )
    def test_responses(self, status: int, text: str, kind: type[IngestionError]) -> None:
        """Errors not known to be permanent are transient; refused texts are in the embedder suite."""
        assert type(translate_ollama(httpx.Response(status, json={"error": text}), "http://o", "x")) is kind

    @pytest.mark.parametrize("status", [400, 404, 500])
    @pytest.mark.parametrize("page", [b"model 'x' not found", b"<p>invalid input type</p>", b"{}", b""])
    def test_a_page_that_is_not_ollamas_is_transient(self, status: int, page: bytes) -> None:
        """Only Ollama's own JSON says that a model is missing or a text is refused."""
        assert type(translate_ollama(httpx.Response(status, content=page), "http://o", "x")) is TransientError


class TestQdrant:
    """Statuses and texts of Qdrant 1.19."""

    @pytest.mark.parametrize(
        ("status", "text", "kind", "code"),
        [
            (400, "Wrong input: Vector dimension error: expected dim: 4, got 8", FatalError, "schema_mismatch"),
            (400, "Format error in JSON body: value x is not a valid point ID", PointsRefused, "points_refused"),
            (413, "Payload too large", PointsRefused, "points_refused"),
            (422, "Validation error in JSON body: [points[0].id: no]", PointsRefused, "points_refused"),
            (401, "Invalid API key or JWT", FatalError, "store_access_denied"),
            (403, "Forbidden: Global access is required", FatalError, "store_access_denied"),
            (404, "Not found: Collection `c` doesn't exist!", CollectionMissing, "collection_missing"),
            (404, "Not found: No point with id 7 found", FatalError, "qdrant_refused"),
            (409, "Wrong input: Collection `c` already exists!", FatalError, "qdrant_refused"),
            (408, "Timeout: 30 s", TransientError, "qdrant_unavailable"),
            (429, "Rate limiting exceeded: write", TransientError, "qdrant_unavailable"),
            (400, "Bad request: see Vector dimension error: x", PointsRefused, "points_refused"),
            (500, "Service internal error: x", TransientError, "qdrant_unavailable"),
            (500, "Service internal error: No space left on device: WAL", TransientError, "qdrant_unavailable"),
            (418, "Wrong input: unheard of", TransientError, "qdrant_unavailable"),
            (503, "Service unavailable: shard", TransientError, "qdrant_unavailable"),
            (507, "Insufficient storage: disk full", TransientError, "qdrant_unavailable"),
        ],
    )
    def test_responses(self, status: int, text: str, kind: type[IngestionError], code: str) -> None:
        """One row per documented error."""
        answer = httpx.Response(status, json={"status": {"error": text}, "time": 0.1})
        error = qdrant_responses.translate_response(answer, "http://q", "c")
        assert (type(error), error.code) == (kind, code)
        assert text in error.message or code == "collection_missing"

    @pytest.mark.parametrize("status", [400, 404, 405, 409, 422, 302])
    @pytest.mark.parametrize("page", [b"", b"default backend - 404", b"<html>Collection doesn't exist</html>", b"[]"])
    def test_a_page_that_is_not_qdrants_says_nothing(self, status: int, page: bytes) -> None:
        """A proxy's 404 or 400 neither means that the collection is missing nor refuses a point."""
        error = qdrant_responses.translate_response(httpx.Response(status, content=page), "http://q", "c")
        assert (type(error), error.code) == (TransientError, "qdrant_unavailable")
        assert "does not come from Qdrant" in error.message

    def test_retry_after_is_kept(self) -> None:
        """The error of a rate limit has its Retry-After."""
        answer = httpx.Response(429, json={"status": {"error": "Rate limit"}}, headers={"retry-after": "12"})
        assert qdrant_responses.translate_response(answer, "http://q", "c").context["retry_after_s"] == 12

    @pytest.mark.parametrize("status", ["wait_timeout", "acknowledged"])
    def test_an_update_that_is_not_applied_is_transient(self, status: str) -> None:
        """HTTP 200 alone does not mean that points are applied."""
        answer = httpx.Response(
            200, json={"result": {"operation_id": 1, "status": status}, "status": "ok", "time": 0.1}
        )
        with pytest.raises(TransientError):
            qdrant_responses.read_result(answer, "http://q", "c")

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"ok":1}'])
    def test_a_foreign_response_is_transient(self, body: bytes) -> None:
        """A proxy's page with status 200."""
        with pytest.raises(TransientError):
            qdrant_responses.read_result(httpx.Response(200, content=body), "http://q", "c")


class GrpcError(grpc.RpcError):
    """A failed call as grpc raises it."""

    def __init__(self, code: grpc.StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


class TestWeaviate:
    """gRPC codes, texts under UNKNOWN, REST statuses, errors inside a batch."""

    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
    def test_every_grpc_code_has_a_reaction(self, code: grpc.StatusCode) -> None:
        """Only codes that state a refusal are fatal; every other one may pass."""
        with pytest.raises(IngestionError) as raised, weaviate_responses.weaviate_errors("host:1", "c"):
            raise GrpcError(code, "planted")
        denied = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
        refused = {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}
        assert type(raised.value) is (FatalError if code.name in denied | refused else TransientError)
        assert (raised.value.code == "store_access_denied") == (code.name in denied)

    @pytest.mark.parametrize("status", [400, 404, 502])
    def test_a_proxy_that_does_not_know_grpc_is_transient(self, status: int) -> None:
        """A proxy's page becomes UNIMPLEMENTED, INTERNAL or UNAVAILABLE in gRPC."""
        code = {400: grpc.StatusCode.INTERNAL, 404: grpc.StatusCode.UNIMPLEMENTED, 502: grpc.StatusCode.UNAVAILABLE}
        failed = GrpcError(code[status], f"Received http2 header with status: {status}")
        error = weaviate_responses.translate_call(failed, "host:1", "docs")
        assert (type(error), error.code) == (TransientError, "weaviate_unavailable")

    @pytest.mark.parametrize(
        ("text", "kind", "code"),
        [
            ("could not find class Docs in schema", CollectionMissing, "collection_missing"),
            ("parse params: could not find class Docs in schema", CollectionMissing, "collection_missing"),
            ("aggregate: tried to browse non-existing index for Docs", CollectionMissing, "collection_missing"),
            ("batch delete: cannot find index for class Docs", CollectionMissing, "collection_missing"),
            ("no such prop with name 'epoch' found in class 'Docs' in the schema", FatalError, "schema_mismatch"),
            ('x: shard "main": knn search: 8 vs 16: vector lengths don\'t match', FatalError, "schema_mismatch"),
            ("new node has a vector with length 8. Existing nodes have 16", FatalError, "schema_mismatch"),
            ("extract auth: unauthorized: invalid api key", FatalError, "store_access_denied"),
            ("rbac: authorization, forbidden action: user 'x'", FatalError, "store_access_denied"),
            ("put objects: leader not found", TransientError, "weaviate_unavailable"),
            ("store is read-only due to: disk usage too high", TransientError, "weaviate_unavailable"),
            ("context deadline exceeded", TransientError, "weaviate_unavailable"),
            ("an error of a version to come", TransientError, "weaviate_unavailable"),
            ("explorer: invalid pagination params: query maximum results exceeded: 1", FatalError, "weaviate_refused"),
            (
                "docIds: \"Filtering by property 'x' requires inverted index\"",
                TransientError,
                "weaviate_unavailable",
            ),
            ("docIds: Filtering by property 'epoch' requires inverted index.", FatalError, "weaviate_refused"),
            (
                "parse filter: could not parse string 'no such prop with name 'a' found in class 'B' in the schema'",
                TransientError,
                "weaviate_unavailable",
            ),
            (
                "search: value 'authorization, forbidden action: user 'x'' is not a number",
                TransientError,
                "weaviate_unavailable",
            ),
        ],
    )
    def test_texts_of_unknown(self, text: str, kind: type[IngestionError], code: str) -> None:
        """Weaviate's untyped errors are known by the shape of their whole text, never by words in a quoted value."""
        error = weaviate_responses.translate_call(GrpcError(grpc.StatusCode.UNKNOWN, text), "host:1", "docs")
        assert (type(error), error.code) == (kind, code)

    @pytest.mark.parametrize(
        ("status", "kind", "code"),
        [
            (400, FatalError, "weaviate_refused"),
            (401, FatalError, "store_access_denied"),
            (403, FatalError, "store_access_denied"),
            (404, TransientError, "weaviate_unavailable"),
            (422, FatalError, "weaviate_refused"),
            (408, TransientError, "weaviate_unavailable"),
            (429, TransientError, "weaviate_unavailable"),
            (500, TransientError, "weaviate_unavailable"),
            (503, TransientError, "weaviate_unavailable"),
        ],
    )
    def test_rest_answers(self, status: int, kind: type[IngestionError], code: str) -> None:
        """Schemas are read and written over REST."""
        answer = httpx.Response(status, json={"error": [{"message": "planted"}]})
        error = weaviate_responses.translate_response(answer, "http://w", "docs")
        assert (type(error), error.code) == (kind, code)

    def test_a_missing_class_is_a_404_without_a_body(self) -> None:
        """The adapter then asks for the list of classes, because a proxy may answer the same."""
        error = weaviate_responses.translate_response(httpx.Response(404), "http://w", "docs")
        assert (type(error), error.code) == (CollectionMissing, "collection_missing")

    @pytest.mark.parametrize("status", [400, 404, 405, 422, 302])
    @pytest.mark.parametrize("page", [b"default backend - 404", b"<html>", b'{"message":"no Route matched"}', b"[]"])
    def test_a_page_that_is_not_weaviates_says_nothing(self, status: int, page: bytes) -> None:
        """A proxy's 404 or 400 neither means that the class is missing nor refuses a request."""
        answer = httpx.Response(status, content=page)
        for collection in ("docs", None):
            error = weaviate_responses.translate_response(answer, "http://w", collection)
            assert (type(error), error.code) == (TransientError, "weaviate_unavailable")
            assert "does not come from Weaviate" in error.message
        assert not weaviate_responses.is_unknown_path(answer)

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("invalid UUID length: 3", PointsRefused),
            ("invalid date property 'ingested_at' on class 'Docs': requires a string with a RFC3339", PointsRefused),
            ("invalid text property 'key' on class 'Docs': not a string, but float64", PointsRefused),
            ("invalid uuid property 'object_id' on class 'Disk_replica': given value is 'shard busy'", PointsRefused),
            ("invalid date property 'x' on class 'Docs': value is 'class not found in schema'", PointsRefused),
            ("property 'x' on class 'Docs': unrecognized data type of value 'forbidden'", PointsRefused),
            ("put: marshal: could not marshal 'schema' max length exceeded (5/4)", PointsRefused),
            ("store is read-only due to: disk usage too high", TransientError),
            ("an error of a version to come", TransientError),
            ("new node has a vector with length 8. Existing nodes have vectors with length 16: x", FatalError),
            ("insert to vector index: new node has a vector with length 8. Existing nodes have", FatalError),
            ("collection Docs does not have configuration for vector default", FatalError),
            ("could not find class Docs in schema", CollectionMissing),
            ("could not find index for class Docs. It might have been deleted in the meantime", CollectionMissing),
            ("auto-schema: create collection: updating schema: TYPE_ADD_CLASS: already exists", CollectionMissing),
            ("class 'Docs' not present in schema", CollectionMissing),
            ("auto-schema: create collection: authorization, forbidden action: user 'x' has none", FatalError),
            ('resolve node name "node1" to host', TransientError),
            ("shard shutdown in progress", TransientError),
        ],
    )
    def test_errors_inside_a_batch(self, text: str, kind: type[IngestionError]) -> None:
        """Only a known error about one object counts against that object; an unknown one is repeated."""
        assert type(weaviate_responses.translate_entry(text, "http://w", "docs")) is kind
