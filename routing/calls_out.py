"""Calls that an agent starts: the gate, the piece of work they belong to, the agent's leg first, then the customer is dialed.

While the customer's phone rings, the interaction is waiting and the agent's work connected; the answer connects the interaction.
"""

from __future__ import annotations

from datetime import datetime

from crm_core import accounts, calls, contacts, conversations, interactions
from crm_core.accounts import ChannelAccount
from crm_core.addresses import Address
from crm_core.consent import Purpose
from crm_core.db import Tx
from crm_core.errors import Conflict, Invalid
from crm_core.ids import new_id
from crm_core.interactions import Interaction, InteractionState
from crm_core.touches import Direction
from routing import agent_phones, agents, callbacks, entries, gate, missed, queues, rooms, talks
from routing.callbacks import CallbackState
from routing.matching import match
from routing.queues import EntryState, Lane, Queue, QueueEntry

VOICE = "voice"
DIALABLE = ("callback", "webform", "lead", "voicemail")  # live work that is answered by a call


async def start_call(
    tx: Tx,
    *,
    agent_id: str,
    address: Address,
    purpose: Purpose,
    account_id: str,
    now: datetime,
    contact_id: str | None = None,
    callback_id: str | None = None,
    list_entry_id: str | None = None,
) -> Interaction:
    """Begin an outgoing call; the browser joins it with `{"call": id, "nonce": data["nonce"]}` and the customer is then dialed.

    Belongs to the callback or web form that the agent holds, or becomes work of its own. Refused by the gate (with its rule),
    Conflict while the agent has other live work.
    """
    account = await accounts.get(tx, account_id)
    if account.channel != VOICE:
        raise Invalid("A call goes out from one of our phone numbers.")
    if contact_id is not None:
        contact_id = (await contacts.get(tx, contact_id)).id
    entry = await _held(tx, agent_id, callback_id)
    window = None
    if callback_id is None and entry is not None:
        callback_id = entry.callback_id
    if callback_id is not None:
        promise = await callbacks.lock(tx, callback_id)
        if promise.state not in callbacks.OPEN:
            raise Conflict("This callback is over already.")
        if promise.number_e164 != address.value:
            # A promise opens the gate for the number it was made to, and for no other.
            raise Invalid("This callback was promised to another number.")
        purpose = Purpose.REQUESTED_CALLBACK
        if promise.until_at is not None:
            window = (promise.due_at, promise.until_at)
    owners = await contacts.list_owners(tx, address)
    if contact_id is not None and contact_id not in {contact.id for contact, _ in owners}:
        # Whose zone and whose consent bind a call is never for the caller to choose.
        if callback_id is None and list_entry_id is None:
            raise Invalid("This number is not on that contact's card. Add it there first, or call without the contact.")
        contact_id = None
    if contact_id is None:
        contact_id = match(address, owners).contact_id
    verdict = await gate.ask(
        tx, address, purpose=purpose, channel=VOICE, sender=account.id, user_id=agent_id, now=now,
        contact_id=contact_id, callback_id=callback_id, window=window,
    )  # fmt: skip
    if entry is None and callback_id is not None:
        entry = await _take_callback(tx, callback_id, agent_id, now=now)
    interaction = await _new_call(tx, account, address, agent_id, contact_id=contact_id, now=now)
    if list_entry_id is not None:
        interaction.data["list_entry_id"] = list_entry_id
    queue = await queues.get(tx, entry.queue_id) if entry is not None else await _queue_for(tx, account, agent_id)
    interaction.queue_id = queue.id
    interaction.entry_id = entry.id if entry is not None else None
    await interactions.create(tx, interaction, now=now)
    if entry is None:
        entry = await entries.enter(tx, queue=queue, kind="outbound", interaction=interaction, now=now)
        await interactions.change(tx, interaction, now=now, entry_id=entry.id)
        await entries.take(tx, entry, await agents.lock(tx, agent_id), now=now)
    if callback_id is not None:
        await callbacks.dialing(tx, callback_id, now=now)
    await missed.tried(tx, address.value, user_id=agent_id, now=now)
    await agent_phones.ring(tx, interaction, agent_id, timeout_s=25, now=now)
    # Should the browser never come, the agent is freed again.
    await talks.watch(tx, entry, until_s=talks.GRACE.total_seconds(), now=now)
    await calls.record_event(
        tx, interaction_id=interaction.id, kind="arrived", event_key=f"hub:{interaction.id}:arrived", happened_at=now,
        now=now, user_id=agent_id,
        raw={"from": account.address, "to": address.value, "direction": "outbound"},
    )  # fmt: skip
    await gate.record(
        tx, address, verdict, channel=VOICE, now=now, contact_id=contact_id, interaction_id=interaction.id,
        user_id=agent_id,
    )  # fmt: skip
    return interaction


async def _held(tx: Tx, agent_id: str, callback_id: str | None) -> QueueEntry | None:
    """The callback or web form that the agent holds and this call is for; Conflict when they are busy with something else."""
    for seen in await entries.list_held(tx, agent_id):
        if seen.lane != Lane.LIVE or seen.state == EntryState.WRAPUP:
            continue
        entry = await entries.lock(tx, seen.id)
        mine = entry.agent_id == agent_id and entry.state == EntryState.CONNECTED and entry.kind in DIALABLE
        if not mine or (callback_id is not None and entry.callback_id != callback_id):
            raise Conflict("You have other live work; finish it first.")
        for interaction in await interactions.list_entry(tx, entry.id):
            if "room" in interaction.data and interaction.state != InteractionState.ENDED:
                raise Conflict("You are in a call already.")
        return entry
    return None


async def _take_callback(tx: Tx, callback_id: str, agent_id: str, *, now: datetime) -> QueueEntry:
    """A callback dialed from the agent's own list, before the router offered it."""
    callback = await callbacks.lock(tx, callback_id)
    if callback.state == CallbackState.REQUESTED:
        await callbacks.make_due(tx, callback, now=now)
    if callback.state != CallbackState.DUE or callback.entry_id is None:
        raise Conflict("Somebody else has this callback.")
    entry = await entries.lock(tx, callback.entry_id)
    if entry.state != EntryState.WAITING:
        raise Conflict("This callback is being offered to an agent.")
    await entries.take(tx, entry, await agents.lock(tx, agent_id), now=now)
    await callbacks.claimed(tx, callback_id, agent_id=agent_id, now=now)
    return entry


async def _queue_for(tx: Tx, account: ChannelAccount, agent_id: str) -> Queue:
    if account.queue_id is not None:
        return await queues.get(tx, account.queue_id)
    served = await queues.list_served(tx, agent_id) or await queues.list_all(tx)
    if not served:
        raise Invalid("There is no queue yet that this call could belong to.")
    return served[0]


async def _new_call(
    tx: Tx, account: ChannelAccount, address: Address, agent_id: str, *, contact_id: str | None, now: datetime
) -> Interaction:
    conversation, _ = await conversations.open_thread(
        tx, channel=VOICE, account_id=account.id, thread_key=address.value, peer=address.value, now=now,
        contact_id=contact_id, queue_id=account.queue_id,
    )  # fmt: skip
    interaction = Interaction(
        id=new_id(now), conversation_id=conversation.id, contact_id=contact_id, channel=VOICE,
        direction=Direction.OUTBOUND, account_id=account.id, from_address=account.address, to_address=address.value,
        state=InteractionState.WAITING, agent_id=agent_id, first_arrival_at=now, created_at=now,
    )  # fmt: skip
    interaction.data = {"room": rooms.name_of(interaction.id), "nonce": entries.fresh_nonce()}
    return interaction
