"""Text messages in: who wrote, the words that the law gives a meaning (STOP, START, HELP), the conversation, the queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from channels.contract import DeliveryReport, MessageArrived
from channels.segments import segments
from channels.twilio_media import LARGEST, PICTURES
from crm_core import accounts, addresses, consent, contacts, conversations, interactions, outbox, outgoing, touches
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.consent import Purpose, SuppressionReason
from crm_core.conversations import Conversation
from crm_core.db import Tx
from crm_core.errors import Invalid, NotFound, Refused
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState, Outcome
from crm_core.touches import Direction
from routing import gate, keywords, media, prompts, queues, threads
from routing.keywords import Keyword
from routing.mails import StoredFile, keep_files
from routing.matching import match

TEXT = "sms"
MOST_FILES = 10
LONGEST = 1600  # characters; Twilio refuses longer ones (error 21617)


def keyword(event: MessageArrived) -> Keyword | None:
    """STOP, START or HELP: the provider's word for it, else what the message says."""
    said = keywords.find(event.body)
    if event.opt_out:
        return Keyword(event.opt_out.upper(), said.language if said else "")
    return said


async def message_arrived(tx: Tx, event: MessageArrived, *, now: datetime) -> None:
    """One text message to one of our numbers. Twice: nothing the second time. NotFound when the number is not ours."""
    account = await accounts.find(tx, TEXT, event.to_raw)
    if account is None:
        raise NotFound("There is no number %(number)s here.", number=event.to_raw)
    if await interactions.find_external(tx, account.id, event.external_id) is not None:
        return
    sender = addresses.find_phone(event.from_raw, country=account.country)
    matched = match(sender, await contacts.list_owners(tx, sender) if sender else [])
    peer = sender.value if sender else event.from_raw
    conversation, _ = await conversations.open_thread(
        tx, channel=TEXT, account_id=account.id, thread_key=peer, peer=peer, now=now, contact_id=matched.contact_id,
        queue_id=account.queue_id,
    )  # fmt: skip
    word = keyword(event)
    if word and word.word == "START" and not event.opt_out and not await _is_stopped(tx, sender, account):
        word = None  # an everyday “yes” of somebody who never stopped is a message like any other
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, contact_id=matched.contact_id or conversation.contact_id,
        channel=TEXT, direction=Direction.INBOUND, account_id=account.id, external_id=event.external_id,
        from_address=peer, to_address=account.address, state=InteractionState.WAITING, body=event.body.replace("\x00", ""),
        match=matched.as_doc(), first_arrival_at=now, created_at=now,
        data={"media": [{"url": url, "content_type": kind} for url, kind in event.media]} if event.media else {},
    )  # fmt: skip
    if sender is not None:
        await touches.record(
            tx, sender, direction=Direction.INBOUND, channel=TEXT, now=now, contact_id=interaction.contact_id,
            interaction_id=interaction.id,
        )  # fmt: skip
    if event.media:
        await media.ask_files(tx, interaction, now=now)
    if word and sender is not None:
        interaction.__dict__.update(
            state=InteractionState.ENDED, outcome=Outcome.AUTOMATED, ended_at=now, queue_id=account.queue_id,
            data={**interaction.data, "keyword": word.word},
        )  # fmt: skip
        await interactions.create(tx, interaction, now=now)
        await conversations.touch(tx, conversation.id, now=now)
        await _obey(tx, word, sender, interaction, conversation, account, answered=bool(event.opt_out), now=now)
        return
    await threads.deliver(tx, interaction, conversation, account, now=now)


async def _is_stopped(tx: Tx, sender: Address | None, account: ChannelAccount) -> bool:
    if sender is None:
        return False
    active, _ = await consent.list_for(tx, sender)
    return any(row.reason == SuppressionReason.SENDER_STOP and row.sender == account.id for row in active)


async def _obey(
    tx: Tx, said: Keyword, sender: Address, interaction: Interaction, conversation: Conversation, account: ChannelAccount, *,
    answered: bool, now: datetime,
) -> None:  # fmt: skip
    """STOP ends messages of this number at once and marketing on every road; START undoes exactly what that STOP did.

    One confirmation each, unless the provider answers these words itself (`answered`).
    """
    word = said.word
    evidence = {"text": interaction.body[:200], "interaction": interaction.id}
    if word == "STOP":
        await consent.opt_out(
            tx, sender, channel=TEXT, sender=account.id, reason=SuppressionReason.SENDER_STOP, source="sms_keyword",
            evidence=evidence, actor="customer", now=now, contact_id=interaction.contact_id,
        )  # fmt: skip
        for purpose in (Purpose.MARKETING, Purpose.TELEMARKETING):
            await consent.opt_out(
                tx, sender, purpose=purpose, source="sms_keyword", evidence=evidence, actor="customer", now=now,
                contact_id=interaction.contact_id,
            )  # fmt: skip
    elif word == "START":
        await consent.lift(tx, sender, reason=SuppressionReason.SENDER_STOP, channel=TEXT, sender=account.id, now=now)
    if answered:
        return
    language = await _language(tx, said, interaction, account)
    key = {"STOP": "stopped", "START": "started", "HELP": "help"}[word]
    body = prompts.text(key, language, name=account.settings.get("display_name") or account.name)
    try:
        await send(
            tx, conversation, account, sender, body=body, purpose=Purpose.CONFIRMATION, user_id="",
            contact_id=interaction.contact_id, now=now,
        )  # fmt: skip
    except Refused:
        return  # erased or dead: what they asked for is done, the confirmation is what may not be sent


def check_length(body: str) -> None:
    """Invalid when no provider takes a text this long."""
    if len(body) > LONGEST:
        raise Invalid("A text message has at most 1,600 characters.", fields={"body": "Too long."})


def check_files(files: Sequence[StoredFile]) -> None:
    """Invalid when no provider takes these along. Source: Twilio, "Accepted content types for media" (copy seen 2026-11)."""
    if len(files) > MOST_FILES:
        raise Invalid("A message carries at most 10 pictures.", fields={"pictures": "Choose fewer."})
    if sum(file.size for file in files) > LARGEST:
        raise Invalid(
            "The pictures of one message have at most 5 MB together.", fields={"pictures": "Choose smaller ones."}
        )
    if not {file.content_type for file in files} <= set(PICTURES):
        raise Invalid("A message carries pictures in JPEG, PNG or GIF.", fields={"pictures": "Choose others."})


async def _language(tx: Tx, said: Keyword, interaction: Interaction, account: ChannelAccount) -> str:
    """In which language we answer: that of the word, else the person's own, else the queue's."""
    contact = await contacts.find(tx, interaction.contact_id) if interaction.contact_id else None
    queue = (await queues.get(tx, account.queue_id)).language if account.queue_id else ""
    wanted = (said.language, contact.language if contact else "", queue)
    return next((one for one in wanted if one.partition("-")[0].lower() in prompts.TEXTS), "en-GB")


async def send(
    tx: Tx, conversation: Conversation, account: ChannelAccount, to: Address, *, body: str, purpose: Purpose,
    user_id: str, contact_id: str | None, now: datetime, files: Sequence[StoredFile] = (),
) -> Interaction:  # fmt: skip
    """Put one text message on its way: gate, interaction, touch and the effect to make, in this transaction. Refused by rule.

    `files` go with it as pictures (MMS): they are in the store already.
    """
    check_files(files)
    body = body.replace("\r\n", "\n")  # a browser's line end is two characters, and both would be paid for
    verdict = await gate.ask(
        tx, to, purpose=purpose, channel=TEXT, sender=account.id, user_id=user_id, now=now, contact_id=contact_id
    )
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, contact_id=contact_id, channel=TEXT,
        direction=Direction.OUTBOUND, account_id=account.id, from_address=account.address, to_address=to.value,
        state=InteractionState.ENDED, outcome=Outcome.SENT, ended_at=now, body=body, agent_id=user_id or None,
        queue_id=conversation.queue_id, delivery="queued", delivery_rank=interactions.DELIVERY_RANK["queued"],
        first_arrival_at=now, created_at=now, data={"purpose": str(purpose)},
    )  # fmt: skip
    await interactions.create(tx, interaction, now=now)
    await keep_files(tx, interaction.id, files, now=now)
    await gate.record(
        tx, to, verdict, channel=TEXT, now=now, contact_id=contact_id, interaction_id=interaction.id,
        user_id=user_id or None,
    )  # fmt: skip
    more = max(0, segments(body).parts - 1)  # the touch counted one part
    await outgoing.count(tx, TEXT, to.value, now=now, user_id=user_id, number=0, units=more)
    await outbox.ask(
        tx, "text.send", interaction.id, lane="reply", now=now, ordering=conversation.id,
        dedupe=f"text.send:{interaction.id}",
    )  # fmt: skip
    await conversations.touch(tx, conversation.id, now=now)
    return interaction


async def delivery_reported(tx: Tx, event: DeliveryReport, *, now: datetime) -> bool:
    """What became of a message; True when it was one of ours here. Late and lower reports change nothing."""
    found = await _reported(tx, event)
    if found is None:
        return False
    await interactions.note_delivery(
        tx, found.id, event.status, now=now, error=event.error_code, external_id=event.external_id
    )
    number = addresses.find_phone(found.to_address)
    if number is not None and event.error_class == "recipient_opted_out":
        await consent.opt_out(
            tx, number, channel=found.channel, sender=found.account_id, reason=SuppressionReason.SENDER_STOP,
            source="provider", evidence={"error": event.error_code}, actor="provider", now=now,
        )  # fmt: skip
    elif number is not None and event.dead:
        await consent.opt_out(
            tx, number, channel=found.channel, reason=SuppressionReason.DEAD, source="provider",
            evidence={"error": event.error_code}, actor="provider", now=now,
        )  # fmt: skip
    return True


async def _reported(tx: Tx, event: DeliveryReport) -> Interaction | None:
    """By our key in the callback URL (`<interaction id>` or `<interaction id>.<attempt>`), else by the provider's id."""
    if event.our_key:
        try:
            return await interactions.get(tx, event.our_key.partition(".")[0])
        except NotFound:
            return None
    for account in await accounts.list_channel(tx, TEXT):
        found = await interactions.find_external(tx, account.id, event.external_id)
        if found is not None:
            return found
    return None
