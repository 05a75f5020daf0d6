"""Every route of the desktop, in the order in which paths are tried."""

from __future__ import annotations

from hub.desktop import (
    admin,
    admin_more,
    assets,
    callbacks,
    campaigns,
    contacts,
    files,
    leads,
    lists,
    mail_actions,
    patterns,
    phone,
    pictures,
    profile,
    public,
    status,
    stream,
    transfers,
    wallboard,
    work,
    work_actions,
    write,
)
from hub.web import Route

ROUTES: list[Route] = [
    *assets.routes,
    *status.routes,
    *phone.routes,
    *work.routes,
    *work_actions.routes,
    *mail_actions.routes,
    *stream.routes,
    *transfers.routes,
    *files.routes,
    *pictures.routes,
    *write.routes,
    *contacts.routes,
    *callbacks.routes,
    *leads.routes,
    *wallboard.routes,
    *lists.routes,
    *campaigns.routes,
    *profile.routes,
    *public.routes,
    *admin.routes,
    *patterns.routes,
    *admin_more.routes,
]
