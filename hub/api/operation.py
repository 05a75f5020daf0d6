"""How an operation of the JSON API is declared, checked, run and described.

`@operation(...)` states method, path, scope, roles and the shapes of query, body and answer as pydantic models; from the
same statement come the route, the validation with problem+json errors, and the OpenAPI 3.1 document.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar, cast

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from crm_core.errors import Conflict, HubError, Invalid, NotFound, Refused
from crm_core.users import Role, User
from hub.api import replays
from hub.api.replays import ApiReplay
from hub.problems import problem
from hub.runtime import Runtime
from hub.web import Route, now_of, runtime_of, user_of
from routing import gate

Q = TypeVar("Q", bound=BaseModel)
B = TypeVar("B", bound=BaseModel)

BODY_LIMIT = 1024 * 1024
DESCRIPTION = "Everything the desktop can do, by the same functions."


def instant(value: datetime) -> datetime:
    """In UTC; without a zone it is UTC already. ValueError for what no calendar of ours reaches."""
    if not 2000 <= value.year < 2200:
        raise ValueError("must lie between the years 2000 and 2199")
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


Instant = Annotated[datetime, AfterValidator(instant)]
Version = Annotated[int, Field(ge=1, le=1_000_000_000)]  # one more must still fit the column


class Strict(BaseModel):
    """Input: nothing that the shape does not name."""

    model_config = ConfigDict(extra="forbid", str_max_length=100_000)


class Nothing(Strict):
    """No query or body."""


class Shown(BaseModel):
    """Output."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, checked."""

    request: web.Request
    runtime: Runtime
    user: User
    now: datetime
    query: Q
    body: B
    path: dict[str, str]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, as declared."""

    method: str
    path: str
    summary: str
    scope: str
    roles: frozenset[Role]
    query: type[BaseModel]
    body: type[BaseModel]
    answer: type[BaseModel] | None
    status: int
    run: Callable[[Any], Awaitable[Any]]
    tags: list[str] = field(default_factory=list)
    body_limit: int = BODY_LIMIT

    def route(self) -> Route:
        """The route of this operation."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await _answer(self, request)
            except HubError as error:
                return problem(request, error)

        return Route(self.method, self.path, handle, roles=self.roles, scope=self.scope, body_limit=self.body_limit)


def operation(
    method: str,
    path: str,
    summary: str,
    *,
    scope: str,
    roles: frozenset[Role],
    query: type[BaseModel] = Nothing,
    body: type[BaseModel] = Nothing,
    answer: type[BaseModel] | None,
    status: int = 200,
    body_limit: int = BODY_LIMIT,
) -> Callable[[Callable[[Any], Awaitable[Any]]], Operation]:
    """Declare an operation; the function gets a `Call` and returns the answer's model, or None for 204."""

    def declare(run: Callable[[Any], Awaitable[Any]]) -> Operation:
        tag = path.removeprefix("/api/v1/").split("/")[0]
        code = status if answer is not None else 204
        return Operation(method, path, summary, scope, roles, query, body, answer, code, run, [tag], body_limit)

    return declare


async def _read(request: web.Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes."""
    raw = bytearray()
    if (request.content_length or 0) <= limit:
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > limit:
                break
        else:
            return bytes(raw)
    raise web.HTTPRequestEntityTooLarge(limit, request.content_length or len(raw))


async def _answer(op: Operation, request: web.Request) -> web.StreamResponse:
    if any("\0" in value for value in request.match_info.values()):
        raise NotFound("There is no such record.")
    raw = await _read(request, op.body_limit)
    call: Call[Any, Any] = Call(
        request=request,
        runtime=runtime_of(request),
        user=user_of(request),
        now=now_of(request),
        query=_query(op, request),
        body=_body(op, request, raw),
        path=dict(request.match_info),
    )
    key = request.headers.get("Idempotency-Key", "") if op.method == "POST" else ""
    if key:
        return await _once(op, call, key, raw)
    return _response(op.status, await _run(op, call, call.runtime))


async def _run(op: Operation, call: Call[Any, Any], runtime: Runtime) -> str:
    try:
        result = await op.run(replace(call, runtime=runtime))
    except Refused as refused:
        # The refusal undid its transaction; that the gate said no is kept all the same.
        told = refused
        await call.runtime.db.write(lambda tx: gate.record_refusal(tx, told, now=call.now))
        raise
    return "" if result is None else cast(BaseModel, result).model_dump_json()


def _response(status: int, body: str) -> web.Response:
    if not body:
        return web.Response(status=204)
    return web.Response(status=status, body=body.encode(), content_type="application/json")


def _query(op: Operation, request: web.Request) -> BaseModel:
    given = dict(request.query)
    if len(given) != len(request.query):
        raise Invalid("A query parameter is given twice.")
    return _checked(op.query, given)


def _body(op: Operation, request: web.Request, raw: bytes) -> BaseModel:
    if op.body is Nothing:
        return Nothing()
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send the body as application/json.")
    try:
        given = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise Invalid("The body is not JSON.") from error
    return _checked(op.body, given)


def _has_nul(given: Any) -> bool:
    """PostgreSQL keeps no NUL in text, so neither engine is given one."""
    if isinstance(given, dict):
        return any(_has_nul(key) or _has_nul(value) for key, value in given.items())
    if isinstance(given, list):
        return any(_has_nul(value) for value in given)
    return isinstance(given, str) and "\0" in given


def _checked(shape: type[BaseModel], given: Any) -> BaseModel:
    if _has_nul(given):
        raise Invalid("A text contains the character NUL.")
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        fields = {".".join(str(part) for part in fault["loc"]) or "body": fault["msg"] for fault in error.errors()}
        raise Invalid("What was sent does not fit.", fields=fields) from error


async def _once(op: Operation, call: Call[Any, Any], key: str, raw: bytes) -> web.Response:
    """Carry it out once per key."""
    if len(key) > 200:
        raise Invalid("An Idempotency-Key has at most 200 characters.")
    digest = hashlib.sha256(f"{call.user.id}\n{call.request.path}\n{key}".encode()).hexdigest()
    row = ApiReplay(key=digest, request_hash=hashlib.sha256(raw).hexdigest(), created_at=call.now)
    db = call.runtime.db
    known = await replays.claim(db, row, now=call.now)
    if known is not None:
        if known.status == replays.DONE:
            raise Conflict("The first request with this Idempotency-Key was carried out; its answer was lost. Look.")
        return _response(known.status, known.answer)
    noting = replays.Noting(db, row, op.answer, op.status)
    try:
        body = await _run(op, call, replace(call.runtime, db=noting))
    except Exception:
        await replays.give_up(db, row)
        raise
    await replays.finish(db, row, status=op.status, answer=body)
    return _response(op.status, body)


def openapi(operations: list[Operation], *, server: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these operations."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, Any] = {}
    for op in operations:
        described: dict[str, Any] = {
            "summary": op.summary,
            "description": (op.run.__doc__ or "").strip(),
            "operationId": op.run.__name__,
            "tags": op.tags,
            "security": [{"token": [op.scope]}],
            "parameters": [*_path_parameters(op), *_query_parameters(op, schemas)],
            "responses": _responses(op, schemas),
        }
        if op.method == "POST":
            described["parameters"].append(
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "schema": {"type": "string", "maxLength": 200, "pattern": "^[ -~]+$"},
                }
            )
        if op.body is not Nothing:
            content = {"application/json": {"schema": _schema(op.body, schemas)}}
            described["requestBody"] = {"required": True, "content": content}
        paths.setdefault(op.path, {})[op.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hub API", "version": "1", "description": DESCRIPTION},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
        "rule": {"type": "string"},
    },
}
_PROBLEMS = {
    "401": "No valid token",
    "403": "Not allowed",
    "404": "No such record",
    "409": "Conflict, or refused by a rule",
    "413": "Larger than a mebibyte",
    "415": "Not application/json",
    "422": "Does not fit",
    "503": "Data out of reach",
}


def problems(*statuses: str) -> dict[str, Any]:
    """These errors, described."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


def _responses(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if op.answer is None:
        told["204"] = {"description": "Done"}
    else:
        schema = _schema(op.answer, schemas, mode="serialization")
        told[str(op.status)] = {"description": "Answer", "content": {"application/json": {"schema": schema}}}
    told.update(problems(*(status for status in _PROBLEMS if status != "415" or op.body is not Nothing)))
    return told


def _schema(shape: type[BaseModel], schemas: dict[str, Any], *, mode: Any = "validation") -> dict[str, Any]:
    described = shape.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    schemas.update(described.pop("$defs", {}))
    schemas[shape.__name__] = described
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def _path_parameters(op: Operation) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in op.path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(op: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    described = op.query.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(described.pop("$defs", {}))
    required = described.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in described.get("properties", {}).items()
    ]
