"""How each kind of outbox row is executed: which channel is called with what, and what is written afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlmodel import col, select

from channels.contract import MailFile, OutboundCall, OutboundMail, OutboundText, SendReceipt
from channels.errors import ChannelError, ContentRejected, Misconfigured, RecipientOptedOut, Unavailable
from crm_core import accounts, consent, contacts, conversations, csv_reading, interactions, mail_tokens, outbox
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address, find_email, find_phone
from crm_core.clock import Clock
from crm_core.consent import Purpose, SuppressionReason
from crm_core.db import Tx
from crm_core.interactions import Attachment, Interaction
from crm_core.outbox import OutboxState, OutboxTask
from hub import user_mail
from hub.channel_set import ChannelSet
from hub.files import AWAY, FileMissing, Files, FilesUnavailable
from hub.media import Media
from hub.relay import Done, Executor
from routing import answered_by, mails, rooms, router

EXAMINE = "text.examine"
EXAMINE_EVERY_S = 20
COPY = "mail.copy"
EXAMINE_FOR = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message ready to go, and whose it is."""

    interaction: Interaction
    account: ChannelAccount
    message: Any
    files: Sequence[Attachment] = ()  # what goes with a mail; the bytes are fetched outside of any transaction


def executors(channels: ChannelSet, clock: Clock, media: Media, files: Files) -> Mapping[str, Executor]:
    """Every kind the relay knows."""
    made = _Executors(channels, clock, media, files)
    return {
        **media.executors(),
        "call.move": Executor("voice", made.move, repeatable=True),
        "call.end": Executor("voice", made.end, repeatable=True),
        "call.hold": Executor("voice", made.hold, repeatable=True),
        "room.end": Executor("voice", made.end_room, repeatable=True),
        "call.place": Executor("voice", made.place, repeatable=False, record=made.placed),
        "text.send": Executor("sms", made.send_text, repeatable=False, prepare=made.text, record=made.sent),
        EXAMINE: Executor("sms", made.examine, repeatable=True, prepare=made.text_again, record=made.examined),
        "mail.send": Executor("email", made.send_mail, repeatable=False, prepare=made.mail, record=made.sent),
        COPY: Executor("email", made.copy_mail, repeatable=True, prepare=made.sent_mail),
        csv_reading.REMOVE: Executor("files", made.remove_file, repeatable=True),
        **user_mail.executors(channels, clock),
    }


class _Executors:
    """The functions of the table above, with what they share."""

    def __init__(self, channels: ChannelSet, clock: Clock, media: Media, files: Files) -> None:
        self._channels = channels
        self._clock = clock
        self._media = media
        self._files = files

    # --- calls ---

    async def move(self, task: OutboxTask, _: Any) -> None:
        await self._channels.voice().move_call(task.payload["call_id"], task.payload["path"])

    async def end(self, task: OutboxTask, _: Any) -> None:
        await self._channels.voice().end_call(task.payload["call_id"])

    async def hold(self, task: OutboxTask, _: Any) -> None:
        asked = task.payload
        await self._channels.voice().hold(
            asked["room_id"], asked["call_id"], on=bool(asked["on"]), music_url=asked.get("music") or rooms.HOLD_MUSIC
        )

    async def end_room(self, task: OutboxTask, _: Any) -> None:
        await self._channels.voice().end_room(task.payload["room_id"])

    async def place(self, task: OutboxTask, _: Any) -> SendReceipt:
        asked = task.payload
        interaction_id = asked.get("interaction_id") or task.subject_id
        call = OutboundCall(
            from_address=asked["from"],
            to_address=asked["to"],
            room=asked["room"],
            label=asked["label"],
            status_url="/webhooks/twilio/voice/status",
            room_status_url=rooms.event_path(interaction_id),
            timeout_s=int(asked.get("timeout_s") or 30),
            answered_by_url=answered_by.path_of(interaction_id) if asked.get("detect") else "",
        )
        placed: SendReceipt = await self._channels.voice().place_call(call)
        return placed

    async def placed(self, tx: Tx, task: OutboxTask, _: Any, done: Done) -> None:
        interaction_id = task.payload.get("interaction_id") or task.subject_id
        call_id = done.value.external_id if isinstance(done.value, SendReceipt) else ""
        error = "" if call_id else (done.error or "The call was not placed.")
        await router.call_placed(tx, interaction_id, call_id=call_id, error=error, now=self._clock.now())

    # --- messages ---

    async def text(self, tx: Tx, task: OutboxTask) -> Prepared | Done:
        interaction, account = await _load(tx, task)
        address = find_phone(interaction.to_address)
        refused = await self._gate(tx, interaction, account, address)
        if refused is not None or address is None:
            return refused or Done(OutboxState.FAILED, error="This is not a phone number.")
        return _text(interaction, account, address, media=await self._media.links(tx, interaction.id))

    async def text_again(self, tx: Tx, task: OutboxTask) -> Prepared | Done:
        interaction, account = await _load(tx, task)
        address = find_phone(interaction.to_address)
        if address is None or interaction.delivery != "unknown":
            return Done(OutboxState.DONE, error="settled meanwhile")
        return _text(interaction, account, address)

    async def mail(self, tx: Tx, task: OutboxTask) -> Prepared | Done:
        interaction, account = await _load(tx, task)
        address = find_email(interaction.to_address)
        data = interaction.data
        cc, bcc = ([str(one) for one in data.get(name, ())] for name in ("cc", "bcc"))
        for one in (address, *map(find_email, (*cc, *bcc))):
            refused = await self._gate(tx, interaction, account, one)
            if refused is not None or one is None:
                return refused or Done(OutboxState.FAILED, error="This is not an e-mail address.")
        assert address is not None  # the loop above would have returned
        return await self._composed(tx, interaction, account, address, cc, bcc)

    async def sent_mail(self, tx: Tx, task: OutboxTask) -> Prepared | Done:
        """A mail that was sent, once more as it went: for its copy in the mailbox. The gate has nothing to say about it."""
        interaction, account = await _load(tx, task)
        address = find_email(interaction.to_address)
        if address is None or not account.settings.get("copy_to_sent"):
            return Done(OutboxState.DONE, error="not wanted any more")
        cc, bcc = ([str(one) for one in interaction.data.get(name, ())] for name in ("cc", "bcc"))
        return await self._composed(tx, interaction, account, address, cc, bcc)

    async def _composed(
        self, tx: Tx, interaction: Interaction, account: ChannelAccount, address: Address, cc: list[str], bcc: list[str]
    ) -> Prepared:
        data = interaction.data
        conversation = await conversations.get(tx, interaction.conversation_id)
        kept = await tx.all(
            select(Attachment).where(Attachment.interaction_id == interaction.id).order_by(col(Attachment.id))
        )
        mark = mail_tokens.read(interaction.external_id)
        signed = mark is not None and bool(account.settings.get("signed_return_path"))
        message = OutboundMail(
            from_address=interaction.from_address or account.address,
            from_name=str(account.settings.get("from_name") or account.name),
            to_address=address.value,
            to_name=str(data.get("to_name", "")),
            cc=cc,
            bcc=bcc,
            subject=interaction.subject or conversation.subject,
            text=mails.text_of(interaction),
            html=str(data.get("html", "")),
            message_id=interaction.external_id,
            in_reply_to=str(data.get("in_reply_to", "")),
            references=tuple(data.get("references", ())),
            reply_to=str(data.get("reply_to", "")),
            headers=dict(data.get("headers", {})),
            envelope_from=mail_tokens.return_address(mark, address=account.address)
            if mark and signed
            else account.address,
        )
        return Prepared(interaction, account, message, list(kept))

    async def _gate(
        self, tx: Tx, interaction: Interaction, account: ChannelAccount, address: Address | None
    ) -> Done | None:
        """The binding look at the gate: in the transaction of the claim, so that a STOP committed before always wins."""
        if address is None:
            return None
        contact = await contacts.find(tx, interaction.contact_id) if interaction.contact_id else None
        purpose = Purpose(interaction.data.get("purpose", Purpose.REPLY))
        verdict = await consent.may_contact(
            tx, purpose=purpose, channel=interaction.channel, address=address, contact=contact, sender=account.id,
            now=self._clock.now(), spend=False,
        )  # fmt: skip
        return None if verdict.allowed else Done(OutboxState.FAILED, error=f"{verdict.rule}: {verdict.reason}")

    async def send_text(self, task: OutboxTask, prepared: Prepared) -> SendReceipt:
        receipt: SendReceipt = await self._channels.sms().send(prepared.message)
        return receipt

    async def send_mail(self, task: OutboxTask, prepared: Prepared) -> SendReceipt:
        message = await self._whole(prepared)
        receipt: SendReceipt = await self._channels.mail(prepared.account).send(message)
        return receipt

    async def copy_mail(self, task: OutboxTask, prepared: Prepared) -> bool:
        """The copy of a mail that the server took: looked for by its Message-ID first, so a second try makes no second one."""
        channel, folder = self._channels.mail(prepared.account), str(prepared.account.settings.get("sent_folder") or "")
        return bool(await channel.keep_copy(await self._whole(prepared), folder=folder))

    async def _whole(self, prepared: Prepared) -> Any:
        files = [await self._file(one) for one in prepared.files]
        return replace(prepared.message, files=files) if files else prepared.message

    async def _file(self, row: Attachment) -> MailFile:
        """A file of a mail, fetched before its first network byte: without it nothing goes."""
        try:
            content = await self._files.get(row.file_key)
        except FileMissing:
            raise ContentRejected("A file of this mail is not in the store any more.", code="file_missing") from None
        except FilesUnavailable as error:
            raise Unavailable(error.message, code=AWAY) from None
        return MailFile(row.name, row.content_type, content, row.content_id)

    async def remove_file(self, task: OutboxTask, _: Any) -> None:
        """An import's file whose time is over; gone already is well."""
        await self._files.delete(task.payload["file_key"])

    async def sent(self, tx: Tx, task: OutboxTask, prepared: Prepared | None, done: Done) -> None:
        """What became of the attempt, on the interaction's delivery."""
        now = self._clock.now()
        if isinstance(done.value, SendReceipt):
            external_id = "" if task.kind == "mail.send" else done.value.external_id
            status = "sent" if task.kind == "mail.send" else done.value.status
            await interactions.note_delivery(tx, task.subject_id, status, now=now, external_id=external_id)
            if prepared is not None and task.kind == "mail.send" and prepared.account.settings.get("copy_to_sent"):
                await outbox.ask(tx, COPY, task.subject_id, lane="notice", now=now, dedupe=f"{COPY}:{task.subject_id}")
        elif done.state is OutboxState.UNKNOWN:
            await interactions.note_delivery(tx, task.subject_id, "unknown", now=now, error=done.error)
            if task.kind == "text.send":
                await self._ask_examination(tx, task.subject_id)
        else:
            await interactions.note_delivery(tx, task.subject_id, "failed", now=now, error=done.error)
            if isinstance(done.value, RecipientOptedOut) and prepared is not None:
                await self._suppress(tx, prepared, SuppressionReason.SENDER_STOP)
            elif (
                task.kind == "text.send"
                and isinstance(done.value, ChannelError)
                and done.value.dead
                and prepared is not None
            ):
                await self._suppress(tx, prepared, SuppressionReason.DEAD)

    async def _suppress(self, tx: Tx, prepared: Prepared, reason: SuppressionReason) -> None:
        address = find_phone(prepared.interaction.to_address) or find_email(prepared.interaction.to_address)
        if address is not None:
            await consent.opt_out(
                tx, address, channel=prepared.interaction.channel,
                sender=prepared.account.id if reason is SuppressionReason.SENDER_STOP else "", reason=reason, source="provider",
                evidence={"interaction": prepared.interaction.id}, actor="system", now=self._clock.now(),
            )  # fmt: skip

    # --- doubtful texts ---

    async def _ask_examination(self, tx: Tx, interaction_id: str) -> None:
        now = self._clock.now()
        due_at = now + timedelta(seconds=EXAMINE_EVERY_S)
        await outbox.ask(tx, EXAMINE, interaction_id, lane="notice", now=now, due_at=due_at)

    async def examine(self, task: OutboxTask, prepared: Prepared) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = await self._channels.sms().find_sent(prepared.message)
        return found

    async def examined(self, tx: Tx, task: OutboxTask, prepared: Prepared | None, done: Done) -> None:
        """The provider's list shows it, or shows it not for ten minutes; then it did not go, and a person is told."""
        now = self._clock.now()
        if prepared is None or done.state is not OutboxState.DONE:
            return
        for external_id, status in done.value or ():
            known = await interactions.find_external(tx, prepared.account.id, external_id)
            if known is None or known.id == task.subject_id:
                rises = (
                    status
                    if interactions.DELIVERY_RANK.get(status, 0) > interactions.DELIVERY_RANK["unknown"]
                    else "sent"
                )
                await interactions.note_delivery(tx, task.subject_id, rises, now=now, external_id=external_id)
                return
        if now - prepared.interaction.created_at < EXAMINE_FOR:
            await self._ask_examination(tx, task.subject_id)
        else:
            error = "The provider shows no such message after ten minutes: it was not sent."
            await interactions.note_delivery(tx, task.subject_id, "failed", now=now, error=error)


def _text(
    interaction: Interaction, account: ChannelAccount, address: Address, *, media: Sequence[str] = ()
) -> Prepared:
    message = OutboundText(
        from_address=account.address,
        to_address=address.value,
        body=interaction.body,
        our_key=interaction.id,
        status_url="/webhooks/twilio/sms/status",
        media=media,
    )
    return Prepared(interaction, account, message)


async def _load(tx: Tx, task: OutboxTask) -> tuple[Interaction, ChannelAccount]:
    interaction = await interactions.get(tx, task.subject_id)
    account = await accounts.get(tx, interaction.account_id)
    if not account.enabled:
        raise Misconfigured(account.off_reason or "This channel is switched off.", code="off")
    return interaction, account


def doubts() -> Any:
    """Statement: interactions whose delivery is unknown, oldest first, for the screen that lists them by name."""
    return select(Interaction).where(col(Interaction.delivery) == "unknown").order_by(col(Interaction.id)).limit(200)


__all__ = ["ChannelError", "doubts", "executors"]
