"""Private copies of the distribution's servers: own folder, own configuration, a free port of this machine, no service.

Run by root (as in CI) the servers get a plain user of their own, because PostgreSQL refuses root and Dovecot needs one to drop
to; run by anybody else they run as that user. Postfix alone can only be started by root.
"""

from __future__ import annotations

import contextlib
import glob
import grp
import imaplib
import os
import pwd
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY_S = 30.0
ROOT = os.geteuid() == 0
PASSWORD = "secret"


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def listens(port: int) -> bool:
    """True when somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `ready`; what the server wrote when it ended or took too long."""
    ends = time.monotonic() + READY_S
    while not ready():
        if process.poll() is not None or time.monotonic() > ends:
            said = log.read_text(errors="replace")[-4000:] if log.exists() else ""
            raise RuntimeError(f"{process.args!r} is not ready (exit {process.poll()}): {said}")
        time.sleep(0.02)


def open_folder(name: str) -> Path:
    """A folder that servers of another user may enter: pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix=f"hub-{name}-"))
    folder.chmod(0o755)
    return folder


def end_group(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """Signal the server and every child of it, and wait."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@dataclass
class Server:
    """One program in a process group of its own."""

    program: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def run(self, arguments: list[str], *, ready: Callable[[], bool], **more: Any) -> None:
        """Start it and wait until it answers."""
        log = self.folder / "output.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **more
            )
        wait_for(ready, self.process, log)

    def kill(self) -> None:
        """As a power cut does it."""
        if self.process is not None:
            end_group(self.process, signal.SIGKILL)
            self.process = None

    def stop(self) -> None:
        """In order."""
        if self.process is not None:
            end_group(self.process)
            self.process = None

    def remove(self) -> None:
        """Stopped, and nothing left of it."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


# --- Dovecot ----------------------------------------------------------------------------------------------------------

DOVECOT = """\
base_dir = {base}/run
state_dir = {base}/state
instance_name = {name}
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
log_path = {base}/dovecot.log
default_login_user = {user}
default_internal_user = {user}
default_internal_group = {group}
mail_location = maildir:~/Maildir
first_valid_uid = 1
first_valid_gid = 1
mail_fsync = never
mailbox_idle_check_interval = 1s
mail_max_userip_connections = 50
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base}/mail/%u allow_all_users=yes
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
  unix_listener lmtp {{
    mode = 0
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


@dataclass
class Dovecot(Server):
    """A mail server with a mailbox for whoever is named; every password is PASSWORD."""

    imap: int = field(default_factory=free_port)
    lmtp: int = field(default_factory=free_port)

    def start(self) -> None:
        """Listening on both ports."""
        user = pwd.getpwnam("nobody") if ROOT else pwd.getpwuid(os.geteuid())
        (self.folder / "mail").mkdir(exist_ok=True)
        (self.folder / "state").mkdir(exist_ok=True)
        if ROOT:
            for path in (self.folder, self.folder / "mail"):
                os.chown(path, user.pw_uid, user.pw_gid)
        config = self.folder / "dovecot.conf"
        config.write_text(
            DOVECOT.format(
                base=self.folder, name=self.folder.name, user=user.pw_name, group=grp.getgrgid(user.pw_gid).gr_name,
                uid=user.pw_uid, gid=user.pw_gid, password=PASSWORD, imap=self.imap, lmtp=self.lmtp,
            )
        )  # fmt: skip
        # What a killed one left: a child that has not noticed yet would pass for a server that runs.
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        self.run([self.program, "-F", "-c", str(config)], ready=lambda: listens(self.imap) and listens(self.lmtp))

    def deliver(self, recipient: str, *mails: bytes, sender: str = "ana@example.com") -> None:
        """Put mails into somebody's INBOX, as a mail server does."""
        with smtplib.LMTP("127.0.0.1", self.lmtp, timeout=30) as line:
            for mail in mails:
                assert not line.sendmail(sender, [recipient], mail)

    def look(self, user: str) -> imaplib.IMAP4:
        """A second reader's connection, logged in."""
        reader = imaplib.IMAP4("127.0.0.1", self.imap, timeout=30)
        reader.login(user, PASSWORD)
        return reader

    def seen(self, user: str, folder: str = "INBOX") -> set[int]:
        """UIDs that carry \\Seen."""
        with self.look(user) as reader:
            reader.select(folder, readonly=True)
            _, found = reader.uid("SEARCH", "SEEN")
        return {int(word) for word in (found[0] or b"").split()}


# --- Postfix ----------------------------------------------------------------------------------------------------------

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {base}/postfix.log
maillog_file_prefixes = {base}
myhostname = mail.example.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_peername_lookup = no
virtual_mailbox_domains = example.test, example.com
virtual_mailbox_maps =
virtual_transport = lmtp:inet:127.0.0.1:{lmtp}
transport_maps = texthash:{base}/transport
default_transport = error:5.1.2 no mail leaves this machine
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_recipient_access texthash:{base}/recipients
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_cert_file = {base}/cert.pem
smtpd_tls_key_file = {base}/key.pem
smtp_host_lookup = native
smtp_dns_support_level = disabled
minimal_backoff_time = 1s
queue_run_delay = 1s
"""

MASTER_CF = """\
127.0.0.1:{smtp} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
local     unix - n n - - local
virtual   unix - n n - - virtual
lmtp      unix - - n - - lmtp
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

RECIPIENTS = """\
nobody@example.com   550 5.1.1 No such user here
full@example.com     452 4.2.2 The mailbox is full just now
greylisted@example.com 450 4.7.1 Come back later
blocked@example.com  550 5.7.1 We do not take such mail
relayed@example.com  554 5.7.1 Relay access denied
"""


@dataclass
class Postfix(Server):
    """A mail server that hands mail for example.test and example.com to `lmtp`, and for bounce.example.test to `sink`."""

    lmtp: int = 0
    sink: int = 0
    trust: ssl.SSLContext | None = None  # trusts its certificate and no other
    smtp: int = field(default_factory=free_port)

    def start(self) -> None:
        """Listening."""
        daemons = next(path for path in ("/usr/lib/postfix/sbin", "/usr/libexec/postfix") if Path(path).is_dir())
        config = self.folder / "etc"
        for name in ("etc", "queue", "data"):
            (self.folder / name).mkdir(exist_ok=True)
        shutil.chown(self.folder / "data", "postfix")
        values = {"base": self.folder, "daemons": daemons, "lmtp": self.lmtp, "smtp": self.smtp}
        (config / "main.cf").write_text(MAIN_CF.format(**values))
        (config / "master.cf").write_text(MASTER_CF.format(**values))
        (self.folder / "recipients").write_text(RECIPIENTS)
        (self.folder / "transport").write_text(f"bounce.example.test smtp:[127.0.0.1]:{self.sink}\n")
        subprocess.run(
            ["/usr/sbin/postfix", "-c", str(config), "check"], check=True, stdin=subprocess.DEVNULL, capture_output=True
        )
        self.run(
            [f"{daemons}/master", "-c", str(config), "-d"],
            ready=lambda: listens(self.smtp),
            env={**os.environ, "MAIL_CONFIG": str(config)},
        )


@dataclass
class Sink(Server):
    """Postfix's own `smtp-sink`, which refuses every recipient for good."""

    port: int = field(default_factory=free_port)

    def start(self) -> None:
        """Listening."""
        self.run(
            [self.program, *(("-u", "nobody") if ROOT else ()), "-f", "rcpt", f"127.0.0.1:{self.port}", "10"],
            ready=lambda: listens(self.port),
        )


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def postgresql_programs() -> Path:
    """The folder of the newest PostgreSQL of the distribution."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb") + glob.glob("/usr/pgsql-*/bin/initdb")
    if not found and (beside := shutil.which("initdb")):
        found = [beside]
    assert found, "PostgreSQL's initdb is not there"
    return Path(max(found, key=lambda path: [int(part) for part in path.split("/") if part.isdigit()])).parent


@dataclass
class Postgres(Server):
    """A cluster of our own, reached over TCP like an operator's."""

    port: int = field(default_factory=free_port)

    def start(self) -> None:
        """A new cluster, accepting connections."""
        programs = postgresql_programs()
        data = self.folder / "data"
        user: dict[str, Any] = {}
        if ROOT:
            owner = pwd.getpwnam("postgres")
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        if not data.exists():
            subprocess.run(
                [str(programs / "initdb"), "-D", str(data), "-U", "hub", "-A", "trust", "-E", "UTF8", "-N"],
                check=True, stdin=subprocess.DEVNULL, capture_output=True, cwd=self.folder, env=environ, **user,
            )  # fmt: skip
        self.run(
            [str(programs / "postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder),
             "-F", "-c", "full_page_writes=off"],
            ready=lambda: self._answers(programs, environ),
            cwd=self.folder, env=environ, **user,
        )  # fmt: skip

    def _answers(self, programs: Path, environ: dict[str, str]) -> bool:
        asked = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, env=environ).returncode == 0

    def stop(self) -> None:
        """Fast: connections are cut."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
        super().stop()

    def create(self, name: str) -> str:
        """The URL of a new, empty database."""
        programs = postgresql_programs()
        subprocess.run(
            [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "hub", name],
            check=True, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        return f"postgresql://hub@127.0.0.1:{self.port}/{name}"


# --- Redis ------------------------------------------------------------------------------------------------------------


@dataclass
class Redis(Server):
    """Debian's redis-server on a port of its own; it keeps nothing over a restart unless told."""

    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """How clients reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Answering."""
        self.run(
            [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self.folder), "--daemonize", "no"],
            ready=lambda: listens(self.port),
        )  # fmt: skip
