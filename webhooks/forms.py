"""Public web forms: JSON, urlencoded and multipart posts, and the hosted form. Size, rate, shape, signature, then the unit.

Nothing is sent to anybody because of a post here, and no answer repeats what was typed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from aiohttp import web

from channels import webform
from channels.contract import Arrival, FormArrived, RawRequest
from channels.errors import AnswerUnreadable
from crm_core.accounts import ChannelAccount, Form
from crm_core.addresses import find_email, find_phone
from crm_core.db import DatabaseUnavailable, Tx
from crm_core.errors import NotFound
from crm_core.ids import new_id
from crm_core.texts import Text
from routing import call_forms, form_fields, router
from routing.mails import StoredFile, keep_files
from webhooks import form_guard, receipts
from webhooks.body import BODY_S, Packed, TooLarge, TooSlow, read_body
from webhooks.form_deps import FormDeps, Rejected
from webhooks.form_guard import network_of
from webhooks.form_posts import REPLAYED_BY, as_read_now, as_seen, find_form, find_kept_form
from webhooks.intake import Answer, Deps, Kind, Post, Unreadable, store_and_run

PROVIDER = "form"
HONEYPOT = "contact_me_by_fax_only"  # hidden from people; a machine that fills everything in gives itself away
KEY_FIELD = "_key"  # hosted form: one per rendering, so that a second click is the same post; signed, with its instant
VERSION_FIELD = "_version"  # which version of the form the person saw
KEY_HEADER = "idempotency-key"
WORK_FIELD = "_work"  # what the page's script found for the key
READ_HEADER = "x-hub-read"  # multipart: its fields and stored files, so that the effects can be made again
REMOTE_HEADER = "x-hub-remote"
SAID_HEADER = "x-hub-said"  # what the post says, whatever its bytes: a key is for one of these
KEPT_KEY = "x-hub-key"  # the receipt's own key: what makes two posts the same
RAW_HEADER = "x-hub-raw"  # object-store key of a body too large for a row
BODY_BYTES = 64 * 1024  # of a post, kept in its row; more goes to the object store
SLOWEST = 64 * 1024  # bytes a second of the slowest visitor with files, a telephone out in the country
BUCKET_S = 300
PER_ADDRESS, PER_NETWORK, PER_FORM, WINDOW_S = 20, 60, 600, 60
PER_POINT, POINT_WINDOW_S = 20, 3600  # posts of a form that name one phone number or mail address


# --- reading ---------------------------------------------------------------------------------------------------------

READER = webform.WebFormChannel(webform.Settings())


def read_sent(raw: RawRequest) -> FormArrived:
    """Fields and files of a post; Rejected with the reason."""
    try:
        arrivals = READER.parse(raw)
    except AnswerUnreadable as error:
        status = {"too_large": 413, "content_type": 415, "encoding": 415, "no_form": 404}.get(error.code, 400)
        raise Rejected(status, error.message) from error
    sent = arrivals[0]
    assert isinstance(sent, FormArrived)
    # Lone surrogates, which JSON may spell, can be stored by no database.
    fields = {_storable(name): _storable(value) for name, value in sent.fields.items()}
    return replace(sent, fields=fields)


def _storable(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "replace").decode().strip()


# --- effects ---------------------------------------------------------------------------------------------------------


def read_stored(request: RawRequest) -> Post:
    """A stored post taken apart again."""
    kept = request.headers.get(READ_HEADER)
    if kept is not None:
        return Post(request, dict(json.loads(kept)["fields"]), {})
    try:
        return Post(request, read_sent(request).fields, {})
    except Rejected as error:
        raise Unreadable(error.sentence) from error


async def _apply(deps: Deps, tx: Tx, arrivals: list[Arrival], post: Post, now: datetime) -> str:
    form = await find_kept_form(tx, webform.form_key(post.request.url))
    if form is None:
        raise NotFound("There is no such form.")
    by, version = post.request.headers.get(REPLAYED_BY, ""), post.fields.get(VERSION_FIELD, "")
    form = await (as_read_now if by else as_seen)(tx, form, version)
    fields = {name: value for name, value in post.fields.items() if not name.startswith("_") and name != HONEYPOT}
    fields = form_fields.kept(form.fields, form_fields.renamed(form.fields, fields))
    kept_key, remote = post.request.headers[KEPT_KEY], post.request.headers.get(REMOTE_HEADER, "")
    event = FormArrived(form.slug, fields, kept_key, remote)
    sent_at = post.request.received_at
    lead = await router.form_arrived(tx, event, form=form, now=now, sent_at=sent_at, replayed_by=by)
    kept = post.request.headers.get(READ_HEADER)
    if kept and lead.interaction_id:
        files = [StoredFile(name, kind, size, key) for name, kind, size, key in json.loads(kept)["files"]]
        await keep_files(tx, lead.interaction_id, files, now=now)
    return json.dumps({"status": "received", "lead": lead.id})


def _key(post: Post) -> str:
    raise Unreadable("A form's key is given by its view.")


KIND = Kind(
    "form", "webform", _key, _apply, content_type="application/json", empty='{"status":"received"}', parsed=False,
    provider=PROVIDER, read=read_stored,
)  # fmt: skip
KINDS = (KIND,)


# --- views -----------------------------------------------------------------------------------------------------------


def handlers(deps: FormDeps) -> tuple[Callable[[web.Request], Awaitable[web.StreamResponse]], ...]:
    """The views: machine post, hosted form, hosted post, the form for a script to build, and whether it may."""

    async def post(request: web.Request) -> web.StreamResponse:
        try:
            answer, _ = await _receive(deps, request)
        except Rejected as error:
            return await _shared(deps, request, told(error))
        if answer.status != 200:
            return await _shared(deps, request, told(Rejected(answer.status, answer.body, fields=answer.fields)))
        return await _shared(deps, request, web.Response(text=answer.body, content_type="application/json"))

    async def show(request: web.Request) -> web.StreamResponse:
        form, account = await _hosted(deps, request.match_info["key"])
        given = {name: value[: webform.MAX_VALUE] for name, value in request.query.items() if not name.startswith("_")}
        return await _page(deps, request, form, account, values=given, key=_fresh_key(deps))

    async def hosted(request: web.Request) -> web.StreamResponse:
        form, account = await _hosted(deps, request.match_info["key"])
        as_json = "application/json" in request.headers.get("Accept", "")
        values: dict[str, str] = {}
        try:
            answer, values = await _receive(deps, request, hosted=values)
            if answer.status != 200:
                raise Rejected(answer.status, answer.body, fields=answer.fields)
        except Rejected as error:
            key = "" if error.fresh else values.get(KEY_FIELD, "")
            key = key or _fresh_key(deps)
            if as_json:
                said = Rejected(
                    error.status,
                    deps.tell(request, error.sentence),
                    fields={name: deps.tell(request, one) for name, one in error.fields.items()},
                    retry_s=error.retry_s,
                )
                return await _shared(deps, request, told(said, key=key))
            page = await _page(
                deps, request, form, account, values=values, errors=error.fields, key=key, sentence=error.sentence,
                status=error.status,
            )  # fmt: skip
            if error.retry_s:
                page.headers["Retry-After"] = str(error.retry_s)
            return page
        if as_json:
            thanks = form.thanks or deps.words(request).get("thanks", "")
            return await _shared(deps, request, web.json_response({"status": "received", "thanks": thanks}))
        return await _page(deps, request, form, account, values={}, done=True)

    async def built(request: web.Request) -> web.StreamResponse:
        form, account = await _hosted(deps, request.match_info["key"])
        body = {
            "title": form.title, "fields": [_public(field) for field in form.fields], "consent_text": form.consent_text,
            "version": form.version, "key": _fresh_key(deps), "work": _work(account), "words": dict(deps.words(request)),
            "slots": await _slots(deps, request, form, account), "honeypot": HONEYPOT,
        }  # fmt: skip
        return await _shared(deps, request, web.json_response(body, headers={"Cache-Control": "no-store"}))

    async def may(request: web.Request) -> web.StreamResponse:
        response = await _shared(deps, request, web.Response(status=204))
        if "Access-Control-Allow-Origin" in response.headers:
            response.headers["Access-Control-Allow-Methods"] = "GET, POST"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type, Idempotency-Key"
            response.headers["Access-Control-Max-Age"] = "600"
        return response

    return post, show, hosted, built, may


PUBLIC_PARTS = (
    "name",
    "label",
    "kind",
    "required",
    "options",
    "hint",
    "value",
    "least",
    "most",
    "show_if",
    "require_if",
)


def _public(field: Mapping[str, Any]) -> dict[str, Any]:
    """A field as a page shows it; where its value goes is nobody's business."""
    return {part: field[part] for part in PUBLIC_PARTS if part in field}


def _work(account: ChannelAccount) -> int:
    return form_guard.WORK_BITS if account.settings.get("strict") else 0


async def _slots(
    deps: FormDeps, request: web.Request, form: Form, account: ChannelAccount
) -> Sequence[tuple[str, str]]:
    if not any(field.get("kind") == "slot" for field in form.fields):
        return ()
    async with deps.intake.db.reading() as tx:
        opening = await call_forms.hours_of(tx, account)
    return list(deps.slots(request, opening, deps.intake.clock.now()))


async def _page(
    deps: FormDeps, request: web.Request, form: Form, account: ChannelAccount, *, values: Mapping[str, str],
    errors: Mapping[str, str] | None = None, key: str = "", done: bool = False, sentence: str = "", status: int = 200,
) -> web.StreamResponse:  # fmt: skip
    slots = () if done else await _slots(deps, request, form, account)
    page = await deps.page(
        request, form, values=values, errors=errors or {}, key=key, done=done, sentence=sentence, status=status,
        slots=slots, work=_work(account),
    )  # fmt: skip
    return _framed(deps, request, account, page)


async def _shared(deps: FormDeps, request: web.Request, response: web.Response) -> web.Response:
    """The answer, which scripts of the sites that the administrator named may read."""
    origin = request.headers.get("Origin", "")
    if not origin:
        return response
    response.headers["Vary"] = "Origin"
    async with deps.intake.db.reading() as tx:
        found = await find_form(tx, request.match_info["key"])
    if found is not None and origin.lower() in found[1].settings.get("embed", ()):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    return response


def told(error: Rejected, *, key: str = "") -> web.Response:
    """A refusal as problem+json (RFC 9457)."""
    body: dict[str, Any] = {"title": "The form was not taken", "status": error.status, "detail": error.sentence}
    if error.fields:
        body["fields"] = dict(error.fields)
    if key:
        body["key"] = key
    response = web.json_response(body, status=error.status, content_type="application/problem+json")
    if error.retry_s:
        response.headers["Retry-After"] = str(error.retry_s)
    if error.status in (408, 413):
        response.force_close()
    return response


async def _hosted(deps: FormDeps, slug: str) -> tuple[Form, ChannelAccount]:
    async with deps.intake.db.reading() as tx:
        found = await find_form(tx, slug)
    if found is None or not found[1].settings.get("hosted", True):
        raise web.HTTPNotFound(text="There is no such form.")
    return found


def _framed(
    deps: FormDeps, request: web.Request, account: ChannelAccount, page: web.StreamResponse
) -> web.StreamResponse:
    """The page, which the sites that the administrator named may show in a frame."""
    origins = [str(origin) for origin in account.settings.get("embed", ())]
    if origins and (policy := deps.framed(request, origins)):
        page.headers["Content-Security-Policy"] = policy
    return page


def _fresh_key(deps: FormDeps) -> str:
    now = deps.intake.clock.now()
    said = f"{new_id(now)}.{int(now.timestamp())}"
    return f"{said}.{deps.sign(said)}"


def seconds_open(deps: FormDeps, key: str, now: datetime) -> int | None:
    """How long ago a hosted form with this key was shown; None when the key is not ours."""
    said, _, signature = key.rpartition(".")
    _, _, stamp = said.rpartition(".")
    if not stamp.isascii() or not stamp.isdigit() or len(stamp) > 12:
        return None
    if not hmac.compare_digest(deps.sign(said).encode(), signature.encode("utf-8", "replace")):
        return None
    return int(now.timestamp()) - int(stamp)


async def _receive(
    deps: FormDeps, request: web.Request, *, hosted: dict[str, str] | None = None
) -> tuple[Answer, dict[str, str]]:
    """The whole way of one post. `hosted` is filled with what was typed, for showing the form again."""
    now = deps.intake.clock.now()
    slug = request.match_info["key"]
    remote = deps.remote_of(request)
    await _within_rate(deps, f"form-from:{remote}", PER_ADDRESS, now)
    await _within_rate(deps, f"form-net:{network_of(remote)}", PER_NETWORK, now)
    await _within_rate(deps, f"form:{slug[:100]}", PER_FORM, now)
    content_type = request.headers.get("Content-Type", "")
    uploads = content_type.lower().startswith("multipart/")
    limit = webform.MAX_MULTIPART if uploads else webform.MAX_BODY
    try:
        body = await read_body(request, limit=limit, timeout_s=BODY_S + limit / SLOWEST)
    except TooLarge as error:
        raise Rejected(
            413, Text("The form is too large; at most %(most)s KiB are taken.", most=limit // 1024)
        ) from error
    except TooSlow as error:
        raise Rejected(408, "The form took too long to arrive.") from error
    except Packed as error:
        raise Rejected(415, str(error)) from error
    url = deps.intake.public_url + f"/webhooks/forms/{slug}"
    headers = {"content-type": content_type, REMOTE_HEADER: remote}
    raw = RawRequest(url, "POST", headers, body, now)
    sent = read_sent(raw)
    if hosted is not None:
        hosted.update(sent.fields)
    try:
        answer = await _store(deps, request, sent, raw, slug, now, machine=hosted is None)
    except (DatabaseUnavailable, TimeoutError) as error:
        raise Rejected(503, "The form could not be stored just now; please send it again.", retry_s=10) from error
    deps.intake.count("webform", answer.outcome)
    return answer, dict(sent.fields)


async def _within_rate(deps: FormDeps, name: str, limit: int, now: datetime, *, window_s: int = WINDOW_S) -> None:
    wait_s = await deps.attempts.allow(name, limit=limit, window_s=window_s, now=now)
    if wait_s:
        deps.intake.count("webform", "throttled")
        raise Rejected(429, "Too many forms from here; please wait a minute.", retry_s=wait_s)


async def _store(
    deps: FormDeps, request: web.Request, sent: FormArrived, raw: RawRequest, slug: str, now: datetime, *, machine: bool
) -> Answer:
    async with deps.intake.db.reading() as tx:
        found = await find_form(tx, slug)
        form = await as_seen(tx, found[0], sent.fields.get(VERSION_FIELD, "")) if found is not None else None
    if found is None or form is None:
        deps.intake.count("webform", "unknown")
        raise Rejected(404, "There is no such form.")
    account, settings = found[1], found[1].settings
    secrets = deps.secrets_of(account) if machine else ()
    headers = {name.lower(): value for name, value in request.headers.items()}
    timed = bool(settings.get("signed_time"))
    if secrets and not form_guard.signed(secrets, headers, raw.body, now=now, timed=timed):
        deps.intake.count("webform", "forged")
        raise Rejected(403, "The signature is missing, wrong or too old.")
    sent = replace(sent, fields=form_fields.renamed(form.fields, sent.fields))
    errors = form_fields.check_values(form.fields, sent.fields, country=account.country or form_fields.HOME)
    if errors:
        await _discard(deps, sent, raw, slug, json.dumps(errors), now)
        deps.intake.count("webform", "invalid")
        raise Rejected(422, "Some fields need another look.", fields=errors)
    if sent.fields.get(HONEYPOT):
        await _discard(deps, sent, raw, slug, form_guard.HONEYPOT, now)
        return Answer(200, "spam", KIND.empty)
    if not machine or (settings.get("strict") and not secrets):
        key = sent.fields.get(KEY_FIELD, "")
        why = form_guard.why_not_yet(
            settings, seconds_open(deps, key, now), key=key, answer=sent.fields.get(WORK_FIELD, "")
        )
        if why:
            await _discard(deps, sent, raw, slug, why, now)
            deps.intake.count("webform", why)
            sentence = "That was quick. Please look it over and send it once more."
            raise Rejected(422, sentence, fresh=why == form_guard.NO_KEY)
    if call_forms.is_one(account):
        await _may_be_called(deps, sent, raw, slug, form, account, now)
    return await _take(deps, request, sent, raw, form, account, now)


async def _may_be_called(
    deps: FormDeps, sent: FormArrived, raw: RawRequest, slug: str, form: Form, account: ChannelAccount, now: datetime
) -> None:
    """Rejected when nobody is phoned because of this post, with a sentence that tells a stranger nothing about a number."""
    async with deps.intake.db.reading() as tx:
        errors = await call_forms.check(tx, form, account, sent.fields, now=now)
        number, name = call_forms.number_of(form, account, sent.fields)
        why = await call_forms.why_held(tx, number, now=now) if number is not None and not errors else ""
    if why and not errors:
        errors = {name: Text("We cannot call this number. Give another one.")}
    if errors:
        await _discard(deps, sent, raw, slug, why or json.dumps(errors), now)
        deps.intake.count("webform", "not_called")
        raise Rejected(422, "Some fields need another look.", fields=errors)


async def _take(
    deps: FormDeps, request: web.Request, sent: FormArrived, raw: RawRequest, form: Form, account: ChannelAccount,
    now: datetime,
) -> Answer:  # fmt: skip
    given, rendering = request.headers.get(KEY_HEADER, "")[:200], sent.fields.get(KEY_FIELD, "")[:200]
    said = form_guard.said(sent)
    if given:
        key = f"{form.slug}:key:{given}"
    elif rendering:  # whoever goes back to the page and writes something else has said something else
        key = f"{form.slug}:key:{rendering}:{said}"
    else:
        key = await _bucket(deps, form.slug, _digest(raw), now)
    try:
        await _within_point_rate(deps, form, account, sent, key, now, remote=raw.headers.get(REMOTE_HEADER, ""))
    except Rejected:
        await _discard(deps, sent, raw, form.slug, form_guard.RATE, now)
        raise
    extra, raw = await _keep_files(deps, sent, raw, key, now)
    extra |= {KEPT_KEY: key, SAID_HEADER: said}
    extra[REMOTE_HEADER] = raw.headers.get(REMOTE_HEADER, "")
    post = Post(replace(raw, headers={**raw.headers, **extra}), sent.fields, {})
    answer = await store_and_run(deps.intake, KIND, post, key=key, headers=extra)
    if given and answer.outcome == "repeated":
        async with deps.intake.db.reading() as tx:
            first = await receipts.find(tx, PROVIDER, key)
        if first is not None and first.headers.get(SAID_HEADER, said) != said:
            await _discard(deps, sent, raw, form.slug, form_guard.KEY_USED, now)
            raise Rejected(422, "This Idempotency-Key was used for another post; send this one with a key of its own.")
    return answer


def _digest(raw: RawRequest) -> str:
    return hashlib.sha256(raw.url.encode() + b"\n" + raw.body).hexdigest()


async def _within_point_rate(
    deps: FormDeps, form: Form, account: ChannelAccount, sent: FormArrived, key: str, now: datetime,
    *, remote: str,
) -> None:  # fmt: skip
    """Posts that name one number or address are counted, whoever sends them; repeats of one post are not."""
    values = [
        (
            find_phone(value, country=account.country or form_fields.HOME)
            if field.get("kind") == "phone"
            else find_email(value)
        )
        for field in form.fields
        if field.get("kind") in ("phone", "email") and (value := sent.fields.get(field["name"], "").strip())
    ]
    if not any(values):
        return
    async with deps.intake.db.reading() as tx:
        if await receipts.find(tx, PROVIDER, key) is not None:
            return
    if call_forms.is_one(account):
        network = f"form-call-net:{network_of(remote)}"
        await _within_rate(deps, network, call_forms.PER_NETWORK, now, window_s=call_forms.NETWORK_WINDOW_S)
    for point in filter(None, values):
        name = hashlib.sha256(point.value.encode()).hexdigest()[:32]
        if call_forms.is_one(account):  # whichever form asks: one telephone is not made to ring all day
            limit, window_s = call_forms.PER_NUMBER, call_forms.NUMBER_WINDOW_S
            await _within_rate(deps, f"form-call:{name}", limit, now, window_s=window_s)
        await _within_rate(deps, f"form-point:{form.slug}:{name}", PER_POINT, now, window_s=POINT_WINDOW_S)


async def _bucket(deps: FormDeps, slug: str, digest: str, now: datetime) -> str:
    """Without a key of the sender's, the same bytes within five to ten minutes are the same post."""
    bucket = int(now.timestamp()) // BUCKET_S
    before = f"{slug}:body:{digest}:{bucket - 1}"
    async with deps.intake.db.reading() as tx:
        known = await receipts.find(tx, PROVIDER, before)
    return before if known is not None else f"{slug}:body:{digest}:{bucket}"


async def _keep_files(
    deps: FormDeps, sent: FormArrived, raw: RawRequest, key: str, now: datetime
) -> tuple[dict[str, str], RawRequest]:
    """Files into the object store before any row names them; a repeat finds its row and stores nothing."""
    if not raw.headers["content-type"].lower().startswith("multipart/"):
        return {}, raw
    async with deps.intake.db.reading() as tx:
        if await receipts.find(tx, PROVIDER, key) is not None:
            return {}, raw
    extra: dict[str, str] = {}
    if len(raw.body) > BODY_BYTES:
        extra[RAW_HEADER] = await deps.files.put(raw.body, folder="raw", now=now)
    files = [
        (file.name, file.content_type, len(file.content), await deps.files.put(file.content, folder="forms", now=now))
        for file in sent.files
    ]
    extra[READ_HEADER] = json.dumps({"fields": sent.fields, "files": files})
    return extra, replace(raw, body=b"") if RAW_HEADER in extra else raw


async def _discard(deps: FormDeps, sent: FormArrived, raw: RawRequest, slug: str, reason: str, now: datetime) -> None:
    """Kept as it came, so that a person can look at it and make it count after all; a stranger's files are not."""
    key = f"{slug}:refused:{_digest(raw)}"
    headers = {**raw.headers, KEPT_KEY: key}
    if raw.headers["content-type"].lower().startswith("multipart/"):
        headers[READ_HEADER] = json.dumps({"fields": sent.fields, "files": []})

    async def unit(tx: Tx) -> None:
        receipt = await receipts.store(
            tx, provider=PROVIDER, event_key=key, kind=KIND.name, url=raw.url, headers=headers,
            body=raw.body[:BODY_BYTES], now=now,
        )  # fmt: skip
        if receipt is not None:
            await receipts.discard(tx, receipt.id, reason=reason, now=now)

    await deps.intake.db.write(unit)
