"""Mail over TLS: it works with a certificate that is trusted, and with no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from channels.contract import OutboundMail
from channels.email import EmailChannel, EmailSettings, imap_from_url, smtp_from_url
from channels.errors import ChannelError, Misconfigured, Unavailable
from channels.mail_pool import MailPool
from tests.channels import wire
from tests.channels.wire import letter

MAIL = OutboundMail("support@example.test", "", "ana@example.com", "x", "x", "", "<o@example.test>")


@pytest.mark.parametrize("fault", ["", "cut in idle", "bye at idle"])
async def test_a_mailbox_over_tls(tmp_path, fault):
    server_tls, client_tls = wire.tls_pair(tmp_path)
    async with wire.imap_wire(letter("a"), tls=server_tls) as server:
        imap = replace(imap_from_url(f"imaps://u:password@127.0.0.1:{server.port}"), step_s=3.0, idle_s=1.0)
        channel = EmailChannel(EmailSettings("support@example.test", imap=imap), tls=client_tls, pool=MailPool(size=1))
        assert [mail.subject async for mail, _ in channel.drain({})] == ["a"]
        if fault:
            server.faults.add(fault)
            with pytest.raises(Unavailable):
                await anext(channel.poll({"uidvalidity": 7, "last_uid": 1}))
        await channel.close()


async def test_a_sender_over_tls(tmp_path):
    server_tls, client_tls = wire.tls_pair(tmp_path)
    async with wire.smtp_wire(tls=server_tls) as server:
        smtp = smtp_from_url(f"smtps://127.0.0.1:{server.port}")
        await EmailChannel(EmailSettings("support@example.test", smtp=smtp), tls=client_tls).send(MAIL)
        assert len(server.mails) == 1


async def test_a_certificate_that_nobody_vouches_for(tmp_path):
    server_tls, _ = wire.tls_pair(tmp_path)
    async with wire.smtp_wire(tls=server_tls) as server, wire.imap_wire(tls=server_tls) as mailbox:
        smtp = replace(smtp_from_url(f"smtps://127.0.0.1:{server.port}"), phase_s=20.0)
        imap = replace(imap_from_url(f"imaps://u:password@127.0.0.1:{mailbox.port}"), step_s=10.0)
        channel = EmailChannel(EmailSettings("support@example.test", imap=imap, smtp=smtp))
        with pytest.raises(ChannelError) as caught:
            await channel.send(MAIL)
        assert isinstance(caught.value, Misconfigured)
        assert server.mails == []
        with pytest.raises(ChannelError):
            await anext(channel.drain({}))
        assert mailbox.lines == [], "the password was not said"
        await channel.close()
