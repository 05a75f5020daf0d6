"""Every address that the outside posts to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from channels.contract import RawRequest
from webhooks import answered_by, forms, intake, messaging, voice
from webhooks.body import Packed, TooLarge, TooSlow, read_body
from webhooks.form_deps import FormDeps
from webhooks.intake import Answer, Deps, Kind

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (*voice.KINDS, *answered_by.KINDS, *messaging.KINDS, *forms.KINDS)
}
PATHS = {
    voice.BASE: voice.ARRIVED,
    f"{voice.BASE}/client": voice.CLIENT,
    f"{voice.BASE}/status": voice.STATUS,
    f"{voice.BASE}/room": voice.ROOM,
    f"{voice.BASE}/recording": voice.RECORDING,
    f"{voice.BASE}/answered-by": answered_by.TOLD,
    "/webhooks/twilio/sms": messaging.ARRIVED,
    "/webhooks/twilio/sms/status": messaging.REPORTED,
}


@dataclass(frozen=True, slots=True)
class WebhookRoute:
    """One address. `public`: anybody may use it; else the request proves itself by its signature."""

    method: str
    path: str
    handler: Handler
    public: bool = False


def routes(deps: Deps, form_deps: FormDeps) -> list[WebhookRoute]:
    """Every webhook and public form."""
    post, show, hosted, built, may = forms.handlers(form_deps)
    return [
        *(WebhookRoute("POST", path, _signed(deps, kind)) for path, kind in PATHS.items()),
        WebhookRoute("POST", voice.STEP, _step(deps)),
        WebhookRoute("POST", "/webhooks/forms/{key}", post, public=True),
        WebhookRoute("GET", "/forms/{key}", show, public=True),
        WebhookRoute("POST", "/forms/{key}", hosted, public=True),
        WebhookRoute("GET", "/forms/{key}/fields.json", built, public=True),
        WebhookRoute("OPTIONS", "/forms/{key}", may, public=True),
        WebhookRoute("OPTIONS", "/webhooks/forms/{key}", may, public=True),
    ]


async def raw_request(deps: Deps, request: web.Request) -> RawRequest | web.Response:
    """The request as its sender meant it, or the answer to one that is too large, too slow or packed."""
    try:
        body = await read_body(request)
    except (TooLarge, TooSlow, Packed) as error:
        status = {TooLarge: 413, TooSlow: 408, Packed: 415}[type(error)]
        sentence = {413: "At most 64 KiB.", 408: "The body took too long to arrive."}.get(status, str(error))
        deps.count("unknown", "unreadable")
        refused = web.Response(status=status, text=sentence)
        refused.force_close()
        return refused
    path = request.raw_path
    if not path.startswith("/"):
        return web.Response(status=400, text="The request line must hold a path.")
    headers = {name.lower(): value for name, value in request.headers.items()}
    # The origin is ours by configuration: a proxy or a forger may say otherwise in Host or X-Forwarded-Host.
    return RawRequest(deps.public_url + path, request.method, headers, body, deps.clock.now())


def respond(answer: Answer) -> web.Response:
    """The answer over HTTP."""
    return web.Response(status=answer.status, text=answer.body, content_type=answer.content_type)


def _signed(deps: Deps, kind: Kind) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await raw_request(deps, request)
        return raw if isinstance(raw, web.Response) else respond(await intake.take(deps, kind, raw))

    return handle


def _step(deps: Deps) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        raw = await raw_request(deps, request)
        if isinstance(raw, web.Response):
            return raw
        if request.query.get("step") == voice.FALLBACK and not request.query.get("i"):
            # The call whose arrival failed: this is its arrival once more.
            return respond(await intake.take(deps, voice.ARRIVED, raw, read_as=deps.public_url + voice.BASE))
        return respond(await intake.take(deps, voice.STEPPED, raw))

    return handle
