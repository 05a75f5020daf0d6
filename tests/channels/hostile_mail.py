"""Mails made to hurt a parser, by our own code. Each is (name, raw, whether it must be readable)."""

from __future__ import annotations

import base64

NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (n, n) for n in range(1000))
DEEP = b"".join(b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--x%d\r\n" % (n, n) for n in range(30))
PARAMETERS = b"".join(b"; a%d=b" % n for n in range(20_000))
PARTS = b"".join(b"--x\r\n\r\na\r\n" for _ in range(50_000))
WORDS = b" ".join(b"=?utf-8?q?a?=" for _ in range(18_000))
RECIPIENTS = b", ".join(b"u%d@example.com" % n for n in range(10_000))

CORPUS: list[tuple[str, bytes, bool]] = [
    ("empty", b"", True),
    ("only NUL", b"\x00" * 1000, True),
    ("no blank line", b"Subject: x", True),
    ("no header", b"\r\nbody", True),
    ("20,000 parameters", b"Content-Type: text/plain" + PARAMETERS + b"\r\n\r\nhi", False),
    ("50,000 parts", b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + PARTS + b"--x--", False),
    ("subject of 256 KiB of encoded words", b"Subject: " + WORDS + b"\r\n\r\nhi", True),
    ("subject of 256 KiB", b"Subject: " + b"a" * 262_144 + b"\r\n\r\nhi", True),
    ("open brackets", b"From: " + b"(" * 4096 + b"\r\n\r\nhi", True),
    ("1,000 nested multiparts", NESTED + b"\r\nhi", False),
    ("30 nested multiparts", DEEP + b"\r\nhi", True),
    ("from a@[", b"From: a@[\r\n\r\nhi", True),
    ("message id <[x", b"Message-ID: <[x\r\n\r\nhi", True),
    ("unknown charset", b"Content-Type: text/plain; charset=martian\r\n\r\nhi \xff", True),
    ("charset that is no text", b"Content-Type: text/plain; charset=zlib\r\n\r\nhi", True),
    ("charset idna", b"Content-Type: text/plain; charset=idna\r\n\r\n" + b"xn--a." * 50_000, True),
    ("charset utf-7", b"Content-Type: text/plain; charset=utf-7\r\n\r\n+ADw-script+AD4-", True),
    ("unknown transfer encoding", b"Content-Transfer-Encoding: x-none\r\n\r\nhi", True),
    ("broken base64", b"Content-Transfer-Encoding: base64\r\n\r\n!!!!a===b", True),
    ("broken quoted-printable", b"Content-Transfer-Encoding: quoted-printable\r\n\r\n=ZZ=\xff=", True),
    ("10,000 recipients", b"To: " + RECIPIENTS + b"\r\n\r\nhi", True),
    ("10,000 references", b"References: " + b" ".join(b"<%d@x>" % n for n in range(10_000)) + b"\r\n\r\nhi", True),
    ("10,000 headers", b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\nhi", True),
    ("line breaks in folded words", b"Subject: =?utf-8?q?a=0D=0ABcc:_x@example.com?=\r\n\r\nhi", True),
    ("bytes in headers", b"Subject: Gr\xc3\xbc\xc3\x9fe \xff\xfe\r\nFrom: \xe4 <a@example.com>\r\n\r\nhi", True),
    ("date from hell", b"Date: Fri, 99 Foo 99999999 99:99:99 +9999\r\n\r\nhi", True),
    ("date at the end of time", b"Date: Fri, 31 Dec 9999 23:59:59 -2359\r\n\r\nhi", True),
    ("missing boundary", b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\nhi", True),
    ("boundary of quotes", b'Content-Type: multipart/mixed; boundary="\r\n\r\nhi', True),
    ("html nesting", b"Content-Type: text/html\r\n\r\n" + b"<div>" * 100_000, True),
    ("html of brackets", b"Content-Type: text/html\r\n\r\n" + b"<" * 500_000, True),
    ("entity bomb", b'Content-Type: text/html\r\n\r\n<!DOCTYPE x [<!ENTITY a "' + b"a" * 9000 + b'">]>' + b"&a;" * 9000,
     True),
    ("filename", b'Content-Disposition: attachment; filename="../../etc/pa\xe2\x80\xaesswd\x00"\r\n\r\nhi', True),
    ("quotes without end", b"\r\n" + b"> " * 60_000, True),
    ("reply patterns", b"\r\n" + b"On On On wrote:\r\n" * 3_000, True),
    ("from patterns", b"\r\n" + b"From: a\r\nTo: " * 3_000, True),
    ("underscores", b"\r\n" + b"\r\n\r\n" + b"_" * 60_000, True),
    ("rfc822 in rfc822", b"Content-Type: message/rfc822\r\n\r\n" * 60 + b"\r\nhi", True),
    ("big attachment", b"Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
     + base64.encodebytes(b"PK" * 4_000_000), True),
]  # fmt: skip
