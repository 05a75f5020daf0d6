"""Saved views of the lists, and changes of many rows at once, by API."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from crm_core import bulk, saved_views
from crm_core.db import Tx
from crm_core.saved_views import SavedView
from hub.api.operation import Call, Nothing, Operation, Shown, Strict, operation
from hub.web import STAFF

Page = Literal["contacts", "leads", "lists"]


class ViewQuery(Strict):
    """Of which page."""

    page: Page


class ViewIn(Strict):
    """A view to keep; one of one's own with the same name is replaced."""

    page: Page
    name: str = Field(min_length=1, max_length=60)
    query: dict[str, str] = Field(
        default_factory=dict, description="filters, sort and columns as in the page's address"
    )
    shared: bool = False
    default: bool = False


class ViewShown(Shown):
    """A view."""

    id: str
    page: str
    name: str
    query: dict[str, str]
    shared: bool
    mine: bool


class ViewList(Shown):
    """Views of a page."""

    items: list[ViewShown]


class BulkIn(Strict):
    """A change of many rows. `dry_run`: only look."""

    noun: Literal["contacts", "leads"]
    action: Literal["tag", "untag", "assign", "stage"]
    value: str = Field("", max_length=200, description="a tag, a stage, or a user's id; empty: nobody")
    ids: list[str] = Field(min_length=1, max_length=200)
    dry_run: bool = False


class BulkShown(Shown):
    """What changes or changed. `id` is empty when nothing was done."""

    id: str
    rows: list[dict[str, Any]]
    same: int


class UndoneShown(Shown):
    """Rows given back, and rows left alone because they were changed since."""

    given_back: int
    left_alone: int
    undone_at: datetime


def shown(view: SavedView, user_id: str) -> ViewShown:
    return ViewShown(
        id=view.id, page=view.page, name=view.name, query=view.query, shared=view.shared, mine=view.user_id == user_id
    )


@operation(
    "GET", "/api/v1/views", "List saved views", scope="contacts:read", roles=STAFF, query=ViewQuery, answer=ViewList
)
async def list_views(call: Call[ViewQuery, Nothing]) -> ViewList:
    """One's own and the team's views of a page, by name."""
    async with call.runtime.db.reading() as tx:
        found = await saved_views.list_for(tx, user_id=call.user.id, page=call.query.page)
    return ViewList(items=[shown(view, call.user.id) for view in found])


@operation(
    "POST",
    "/api/v1/views",
    "Keep a view",
    scope="contacts:write",
    roles=STAFF,
    body=ViewIn,
    answer=ViewShown,
    status=201,
)
async def keep_view(call: Call[Nothing, ViewIn]) -> ViewShown:
    """Private unless shared; as default the desktop opens the page with it."""
    wanted = call.body
    view = await call.runtime.db.write(
        lambda tx: saved_views.save(
            tx, user_id=call.user.id, page=wanted.page, name=wanted.name, query=wanted.query, shared=wanted.shared,
            default=wanted.default, now=call.now,
        )
    )  # fmt: skip
    return shown(view, call.user.id)


@operation("DELETE", "/api/v1/views/{id}", "Delete a view", scope="contacts:write", roles=STAFF, answer=None)
async def delete_view(call: Call[Nothing, Nothing]) -> None:
    """Only one's own."""
    await call.runtime.db.write(lambda tx: saved_views.remove(tx, call.path["id"], user_id=call.user.id, now=call.now))


@operation(
    "POST", "/api/v1/bulk", "Change many rows", scope="contacts:write", roles=STAFF, body=BulkIn, answer=BulkShown
)
async def change_many(call: Call[Nothing, BulkIn]) -> BulkShown:
    """In one transaction, audited; every row with what it held before and holds after."""
    wanted = call.body

    async def unit(tx: Tx) -> BulkShown:
        forecast = await bulk.look(tx, noun=wanted.noun, action=wanted.action, value=wanted.value, ids=wanted.ids)
        made = ""
        if forecast.rows and not wanted.dry_run:
            made = (await bulk.carry_out(tx, forecast, user_id=call.user.id, now=call.now)).id
        return BulkShown(id=made, rows=forecast.rows, same=forecast.same)

    return await call.runtime.db.write(unit)


@operation(
    "POST", "/api/v1/bulk/{id}/undo", "Undo a change of many", scope="contacts:write", roles=STAFF, answer=UndoneShown
)
async def undo_many(call: Call[Nothing, Nothing]) -> UndoneShown:
    """One's own, once, within twelve hours; rows that somebody changed since are left alone."""
    given, left = await call.runtime.db.write(
        lambda tx: bulk.undo(tx, call.path["id"], user_id=call.user.id, now=call.now)
    )
    return UndoneShown(given_back=given, left_alone=left, undone_at=call.now)


OPERATIONS: list[Operation] = [list_views, keep_view, delete_view, change_many, undo_many]
