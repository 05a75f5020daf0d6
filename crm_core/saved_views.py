"""Saved views: a name for what somebody filters, which columns they see and in which order; private, or the team's.

A view is the part of a list's address that may be saved. Which parameters a page knows is written here; a page decides
what they mean. At most one view of a page is a user's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Index, delete, or_
from sqlmodel import col, select

from crm_core import audit
from crm_core.db import Tx
from crm_core.errors import Invalid, NotAllowed, NotFound
from crm_core.ids import new_id
from crm_core.tables import Table, at, doc, key, ref, text

PAGES: dict[str, frozenset[str]] = {
    "contacts": frozenset({"q", "tag", "owner", "sort", "columns"}),
    "leads": frozenset({"stage", "owner", "sort", "columns"}),
    "lists": frozenset({"state", "sort", "columns"}),
}
MOST = 50  # views of one user on one page
LONGEST = 200


class SavedView(Table, table=True):
    """One view of one page."""

    __tablename__ = "saved_views"
    __table_args__ = (Index("ix_saved_views_user", "user_id", "page"), Index("ix_saved_views_shared", "shared", "page"))

    id: str = key()
    user_id: str = ref("users.id", index=False)  # who made it, and alone may change it
    page: str = text()  # contacts, leads, lists
    name: str = text()
    query: dict[str, str] = doc()  # parameter → value, as in the page's address
    shared: bool = False  # everybody sees it
    created_at: datetime = at()


class DefaultView(Table, table=True):
    """With which view a page opens for a user."""

    __tablename__ = "default_views"

    user_id: str = ref("users.id", primary_key=True)
    page: str = key()
    view_id: str = ref("saved_views.id")


def query_of(page: str, given: Mapping[str, str]) -> dict[str, str]:
    """What of an address may be saved for this page. NotFound for a page without views."""
    if page not in PAGES:
        raise NotFound("There is no such page.")
    return {name: given[name].strip()[:LONGEST] for name in sorted(PAGES[page]) if given.get(name, "").strip()}


async def save(
    tx: Tx, *, user_id: str, page: str, name: str, query: Mapping[str, str], shared: bool, default: bool, now: datetime
) -> SavedView:
    """A view under this name; one of one's own with the same name is replaced."""
    wanted = query_of(page, query)
    name = name.strip()
    if not name:
        raise Invalid("A view needs a name.", fields={"name": "Give a name."})
    if len(name) > 60:
        raise Invalid("A view's name has at most 60 characters.", fields={"name": "Too long."})
    mine = await tx.all(select(SavedView).where(SavedView.user_id == user_id, SavedView.page == page))
    for known in mine:
        if known.name == name:
            await _drop(tx, known.id)
    if len(mine) >= MOST:
        raise Invalid("You have %(most)s views of this page; delete one first.", most=MOST)
    view = await tx.add(
        SavedView(id=new_id(now), user_id=user_id, page=page, name=name, query=wanted, shared=shared, created_at=now)
    )
    if shared:
        await audit.record(tx, actor=user_id, action="view.shared", subject=view.id, now=now, page=page, name=name)
    if default:
        await set_default(tx, view.id, user_id=user_id)
    return view


async def list_for(tx: Tx, *, user_id: str, page: str) -> list[SavedView]:
    """One's own and the team's views of a page, by name."""
    seen = select(SavedView).where(SavedView.page == page)
    seen = seen.where(or_(col(SavedView.user_id) == user_id, col(SavedView.shared).is_(True)))
    return await tx.all(seen.order_by(col(SavedView.name), col(SavedView.id)).limit(200))


async def get(tx: Tx, view_id: str, *, user_id: str) -> SavedView:
    """A view that this user may see; NotFound."""
    view = await tx.one(select(SavedView).where(SavedView.id == view_id))
    if view is None or (view.user_id != user_id and not view.shared):
        raise NotFound("There is no such view.")
    return view


async def remove(tx: Tx, view_id: str, *, user_id: str, now: datetime) -> SavedView:
    """Delete one's own view."""
    view = await get(tx, view_id, user_id=user_id)
    if view.user_id != user_id:
        raise NotAllowed("Only who made a view may delete it.")
    await _drop(tx, view.id)
    if view.shared:
        await audit.record(tx, actor=user_id, action="view.deleted", subject=view.id, now=now, name=view.name)
    return view


async def _drop(tx: Tx, view_id: str) -> None:
    await tx.run(delete(DefaultView).where(col(DefaultView.view_id) == view_id))
    await tx.run(delete(SavedView).where(col(SavedView.id) == view_id))


async def set_default(tx: Tx, view_id: str, *, user_id: str) -> None:
    """The page opens with this view from now on."""
    view = await get(tx, view_id, user_id=user_id)
    await tx.put(
        DefaultView(user_id=user_id, page=view.page, view_id=view.id), unique=["user_id", "page"], update=["view_id"]
    )


async def clear_default(tx: Tx, *, user_id: str, page: str) -> None:
    """The page opens as it comes."""
    await tx.run(delete(DefaultView).where(col(DefaultView.user_id) == user_id, col(DefaultView.page) == page))


async def find_default(tx: Tx, *, user_id: str, page: str) -> SavedView | None:
    """The view with which the page opens; None when none was chosen, or it is shared no more."""
    chosen = await tx.one(select(DefaultView.view_id).where(DefaultView.user_id == user_id, DefaultView.page == page))
    if chosen is None:
        return None
    try:
        return await get(tx, chosen, user_id=user_id)
    except NotFound:
        return None
