"""The settings, read once from the environment at the entrance of each process.

Decides what the variables mean, their defaults, and what is wrong with them: every fault is found before the first is
reported, and each is one sentence that says what to do. docs/operators.md lists the same variables (a test compares).
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from crm_core.texts import Text

# name -> what it is; the order is that of the page for operators
VARIABLES: dict[str, str] = {
    "HUB_HOST": "address to listen on",
    "HUB_PORT": "port to listen on",
    "HUB_PUBLIC_URL": "the https address under which providers and browsers reach the hub",
    "HUB_DATA_DIR": "folder for the embedded database, files and generated secrets",
    "HUB_DATABASE_URL": "sqlite:///… or postgresql://…",
    "HUB_REDIS_URL": "redis://…, rediss://… or unix://…; unset: a private Valkey server",
    "HUB_SECRET_KEY": "encrypts stored secrets and signs links and sessions",
    "HUB_FILES_URL": "file:///… or s3://… for attachments, recordings, imports and exports",
    "HUB_SMTP_URL": "smtp://user:password@host:587 or smtps://…:465",
    "HUB_IMAP_URL": "imaps://user:password@host:993 or imap://…",
    "HUB_INTERNAL_HOSTS": "mail servers inside your own network that administrators may name, with commas between",
    "HUB_SANDBOX": "1: run against the local twin of the outside world; 0: never; public: also under a public address",
    "HUB_SECOND_FACTOR": "roles that must log in with a second factor, with commas between, such as admin,supervisor",
    "HUB_LOG_FORMAT": "json or console",
    "HUB_LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR",
    "HUB_FAILPOINTS": "for tests only: named places at which the process kills itself",
    "TWILIO_ACCOUNT_SID": "the Twilio account",
    "TWILIO_AUTH_TOKEN": "its auth token: REST calls and webhook signatures",
    "TWILIO_API_KEY_SID": "an API key: access tokens for the agents' browsers",
    "TWILIO_API_KEY_SECRET": "that key's secret",
    "TWILIO_APP_SID": "the TwiML App that agents' browsers call; made by `hub twilio setup`",
    "TWILIO_MESSAGING_SERVICE_SID": "optional messaging service to send SMS by",
    "HUB_TWILIO_API_BASE": "another origin that speaks Twilio's REST API (the sandbox, tests)",
}
TWILIO_NEEDED = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY_SID", "TWILIO_API_KEY_SECRET")
SID = {
    "TWILIO_ACCOUNT_SID": "AC",
    "TWILIO_API_KEY_SID": "SK",
    "TWILIO_APP_SID": "AP",
    "TWILIO_MESSAGING_SERVICE_SID": "MG",
}
PROVIDERS = (*TWILIO_NEEDED, "TWILIO_APP_SID", "TWILIO_MESSAGING_SERVICE_SID", "HUB_SMTP_URL", "HUB_IMAP_URL")
TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
MIN_SECRET = 32
PUBLIC_SANDBOX = "public"
ROLES = ("agent", "telemarketer", "marketer", "supervisor", "admin", "partner")


class SettingsFault(Exception):
    """The settings cannot be used; `faults` are sentences, all that were found."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class TwilioAccount:
    """Credentials of one Twilio account. `api_base` is None for Twilio itself."""

    account_sid: str
    auth_token: str = field(repr=False)
    api_key_sid: str
    api_key_secret: str = field(repr=False)
    app_sid: str | None
    messaging_service_sid: str | None
    api_base: str | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a process of the hub is told from outside."""

    host: str
    port: int
    public_url: str  # no slash at the end; the bind address where HUB_PUBLIC_URL is unset
    public_url_set: bool
    data_dir: Path
    database_url: str = field(repr=False)
    embedded_database: bool
    redis_url: str | None = field(repr=False)  # None: the private Valkey server of data_dir
    secret_key: str = field(repr=False)
    files_url: str
    smtp_url: str | None = field(repr=False)
    imap_url: str | None = field(repr=False)
    twilio: TwilioAccount | None
    sandbox: bool
    log_format: str
    log_level: str
    failpoints: str
    channels_off: dict[str, str]  # channel kind -> why it is off
    warnings: tuple[str, ...]
    internal_hosts: frozenset[str] = frozenset()  # hosts that may be inside: named by the deployment, in lower case
    second_factor: frozenset[str] = frozenset()  # roles whose users cannot log in without one

    @property
    def sandbox_attached(self) -> bool:
        """True when the twin runs already and this process was told where (a child of `hub serve`)."""
        return self.sandbox and self.twilio is not None

    @property
    def secrets(self) -> frozenset[str]:
        """Values that must never be written anywhere; the log replaces them."""
        found = {self.secret_key}
        if self.twilio is not None:
            found |= {self.twilio.auth_token, self.twilio.api_key_secret}
        for url in (self.database_url, self.redis_url, self.smtp_url, self.imap_url, self.files_url):
            password = urlsplit(url).password if url else None
            found |= {password, unquote(password)} if password else set()
        return frozenset(value for value in found if value and len(value) >= 4)


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; SettingsFault with every fault found.

    Makes the data folder, and the secret key of the embedded default, where they are not there yet.
    """
    return _Reader(os.environ if environ is None else environ).read()


class _Reader:
    """Collects faults while it reads."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.values = {name: environ[name].strip() for name in VARIABLES if environ.get(name, "").strip()}
        self.unknown = sorted(
            name
            for name in environ
            if name.startswith(("HUB_", "TWILIO_")) and name not in VARIABLES and not name.startswith("HUB_TEST")
        )
        self.faults: list[str] = []

    def read(self) -> Settings:
        host, port = self.values.get("HUB_HOST", "127.0.0.1"), self.port()
        public_url = self.public_url(host, port)
        data_dir = self.data_dir()
        sandbox = self.sandbox(host)
        twilio = self.twilio(sandbox=sandbox)
        smtp_url = self.url("HUB_SMTP_URL", ("smtp", "smtps"), "smtp://user:password@mail.example.com:587")
        imap_url = self.url("HUB_IMAP_URL", ("imap", "imaps"), "imaps://user:password@mail.example.com:993")
        embedded = "HUB_DATABASE_URL" not in self.values
        settings = Settings(
            host=host,
            port=port,
            public_url=public_url,
            public_url_set="HUB_PUBLIC_URL" in self.values,
            data_dir=data_dir,
            database_url=self.database_url(data_dir),
            embedded_database=embedded,
            redis_url=self.url("HUB_REDIS_URL", ("redis", "rediss", "unix"), "redis://127.0.0.1:6379/0"),
            secret_key=self.secret_key(data_dir, embedded=embedded),
            files_url=self.files_url(data_dir),
            smtp_url=smtp_url,
            imap_url=imap_url,
            twilio=twilio,
            sandbox=sandbox,
            log_format=self.choice("HUB_LOG_FORMAT", ("json", "console"), "console" if sandbox else "json"),
            log_level=self.choice("HUB_LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO"),
            failpoints=self.values.get("HUB_FAILPOINTS", ""),
            channels_off={} if sandbox else channels_off(twilio, smtp_url=smtp_url, imap_url=imap_url),
            warnings=tuple(self.warnings()),
            internal_hosts=self.internal_hosts(smtp_url, imap_url),
            second_factor=self.second_factor(),
        )
        if self.faults:
            raise SettingsFault(self.faults)
        return settings

    def fault(self, sentence: str) -> None:
        self.faults.append(sentence)

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self.values.get(name, default)
        for known in allowed:
            if value.lower() == known.lower():
                return known
        self.fault(f"{name} is {value!r}; set it to {' or '.join(allowed)}.")
        return default

    def port(self) -> int:
        text = self.values.get("HUB_PORT", "8080")
        if text.isascii() and text.isdigit() and 0 <= int(text) <= 65535:
            return int(text)
        self.fault(f"HUB_PORT is {text!r}; set it to a number from 1 to 65535.")
        return 8080

    def public_url(self, host: str, port: int) -> str:
        text = self.values.get("HUB_PUBLIC_URL")
        if text is None:
            shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
            return f"http://{shown}:{port}"
        parts = parsed_url(text)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            self.fault(
                f"HUB_PUBLIC_URL is {text!r}; set it to the hub's outside address, such as https://hub.example.com."
            )
        elif parts.scheme == "http" and not is_loopback(parts.hostname):
            self.fault(
                "HUB_PUBLIC_URL begins with http:// but must begin with https://: calls and passwords travel there."
            )
        elif parts.path.strip("/") or parts.query or parts.fragment:
            self.fault("HUB_PUBLIC_URL must end after the host name: the hub lives at the root of its address.")
        return text.rstrip("/")

    def data_dir(self) -> Path:
        path = Path(self.values.get("HUB_DATA_DIR", "var")).expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            writable = path.is_dir() and os.access(path, os.W_OK | os.X_OK)
            reason = "this user may not write there"
        except OSError as error:
            writable, reason = False, (error.strerror or str(error)).lower()
        if not writable:
            self.fault(
                f"Cannot write to the data folder {path} ({reason}); give this user the folder or set HUB_DATA_DIR."
            )
        return path

    def database_url(self, data_dir: Path) -> str:
        text = self.values.get("HUB_DATABASE_URL")
        if text is None:
            return f"sqlite:///{data_dir / 'hub.db'}"
        parts = parsed_url(text)
        scheme = parts.scheme if parts else ""
        if scheme == "sqlite" and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
            return text
        if scheme in {"postgresql", "postgres"} and parts is not None and parts.path.strip("/"):
            return "postgresql" + text.removeprefix(scheme)
        self.fault(
            "HUB_DATABASE_URL must look like postgresql://user:password@host/database or sqlite:////folder/hub.db; "
            f"yours begins with {text.partition(':')[0][:20]!r}."
        )
        return text

    def files_url(self, data_dir: Path) -> str:
        text = self.values.get("HUB_FILES_URL", f"file://{data_dir / 'files'}")
        parts = parsed_url(text)
        good = parts is not None and (
            (parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"))
            or (parts.scheme == "s3" and parts.netloc)
        )
        if not good:
            self.fault("HUB_FILES_URL must look like file:///folder or s3://bucket/prefix.")
        return text

    def url(self, name: str, schemes: tuple[str, ...], example: str) -> str | None:
        text = self.values.get(name)
        if text is None:
            return None
        parts = parsed_url(text)
        if (
            parts is None
            or parts.scheme not in schemes
            or not (parts.hostname or (parts.scheme == "unix" and parts.path))
        ):
            self.fault(f"{name} must look like {example}; yours begins with {text.partition(':')[0][:20]!r}.")
        elif name in {"HUB_SMTP_URL", "HUB_IMAP_URL"} and bool(parts.username) != bool(parts.password):
            self.fault(f"{name} has a user name or a password but not both; write {example}.")
        return text

    def internal_hosts(self, *urls: str | None) -> frozenset[str]:
        """Hosts that the deployment itself names: administrators may use them although they are inside."""
        named = {host.strip().lower() for host in self.values.get("HUB_INTERNAL_HOSTS", "").split(",")}
        named |= {(parts.hostname or "") for url in urls if url and (parts := parsed_url(url)) is not None}
        return frozenset(named - {""})

    def secret_key(self, data_dir: Path, *, embedded: bool) -> str:
        text = self.values.get("HUB_SECRET_KEY")
        if text is not None:
            if len(text) < MIN_SECRET:
                self.fault(f"HUB_SECRET_KEY has {len(text)} characters; it needs at least {MIN_SECRET}. {MAKE_SECRET}")
            return text
        if not embedded:
            self.fault(f"HUB_SECRET_KEY is not set, and a hub with its own database server needs one. {MAKE_SECRET}")
            return ""
        if any("data folder" in fault for fault in self.faults):
            return ""
        try:
            return kept_secret(data_dir / "secret.key")
        except OSError as error:
            self.fault(f"Cannot read or write {data_dir / 'secret.key'} ({error.strerror}); set HUB_SECRET_KEY.")
            return ""

    def sandbox(self, host: str) -> bool:
        """Whether the twin stands in: asked for, or no provider is configured and nobody else can come in."""
        asked = self.values.get("HUB_SANDBOX", "").lower()
        if asked and asked not in TRUE | FALSE | {PUBLIC_SANDBOX}:
            self.fault(f"HUB_SANDBOX is {asked!r}; set it to 1 or 0.")
            return False
        if asked in FALSE and asked:
            return False
        if asked:
            self.sandbox_only_talks_to_this_machine()
            if asked != PUBLIC_SANDBOX:
                self.sandbox_is_not_in_production()
            return True
        return is_loopback(host) and not any(
            name in self.values for name in (*PROVIDERS, "HUB_TWILIO_API_BASE", "HUB_PUBLIC_URL")
        )

    def sandbox_is_not_in_production(self) -> None:
        """Its log-ins stand on the log-in page: under an address that everybody can reach only by an operator's word."""
        public = parsed_url(self.values.get("HUB_PUBLIC_URL", ""))
        if public is not None and public.hostname and not is_loopback(public.hostname):
            self.fault(
                f"HUB_SANDBOX=1 shows its log-ins to everybody who opens {public.geturl()}: unset it, "
                f"or say HUB_SANDBOX={PUBLIC_SANDBOX} when that is what you want."
            )

    def second_factor(self) -> frozenset[str]:
        """Roles that cannot log in by a password alone."""
        named = frozenset(part.strip().lower() for part in self.values.get("HUB_SECOND_FACTOR", "").split(",")) - {""}
        if unknown := sorted(named - set(ROLES)):
            self.fault(f"HUB_SECOND_FACTOR names {listed(unknown)}; roles are {listed(list(ROLES))}.")
        return named

    def sandbox_only_talks_to_this_machine(self) -> None:
        twilio = any(name.startswith("TWILIO_") for name in self.values)
        base = self.values.get("HUB_TWILIO_API_BASE")
        if twilio and base is None:
            self.fault("HUB_SANDBOX=1 runs without Twilio, but TWILIO_ variables are set; unset either.")
        for name in ("HUB_TWILIO_API_BASE", "HUB_SMTP_URL", "HUB_IMAP_URL"):
            parts = parsed_url(self.values.get(name, ""))
            if parts is not None and parts.hostname and not is_loopback(parts.hostname):
                self.fault(
                    f"HUB_SANDBOX=1 must not reach real people, but {name} names {parts.hostname}; unset either."
                )

    def twilio(self, *, sandbox: bool) -> TwilioAccount | None:
        given = {name: value for name, value in self.values.items() if name.startswith("TWILIO_")}
        base = self.values.get("HUB_TWILIO_API_BASE")
        if base is not None:
            parts = parsed_url(base)
            if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
                self.fault("HUB_TWILIO_API_BASE must be an origin such as http://127.0.0.1:9090, with no path.")
        if not given:
            if base is not None and not sandbox:
                self.fault(
                    "HUB_TWILIO_API_BASE is set but no TWILIO_ACCOUNT_SID; set the account's variables or unset it."
                )
            return None
        if missing := [name for name in TWILIO_NEEDED if name not in given]:
            self.fault(
                f"Twilio is only half configured: set {listed(missing)} too, or unset {listed(sorted(given))} "
                "to run without Twilio."
            )
        for name, prefix in SID.items():
            value = given.get(name)
            if value is not None and not re.fullmatch(prefix + "[0-9a-fA-F]{32}", value):
                self.fault(f"{name} does not look right: it is {prefix} followed by 32 hexadecimal digits.")
        local = base is not None and is_loopback(urlsplit(base).hostname or "")
        if "HUB_PUBLIC_URL" not in self.values and not local and not missing:
            self.fault(
                "HUB_PUBLIC_URL is not set, so Twilio cannot reach the hub; set it, such as https://hub.example.com."
            )
        return TwilioAccount(
            account_sid=given.get("TWILIO_ACCOUNT_SID", ""),
            auth_token=given.get("TWILIO_AUTH_TOKEN", ""),
            api_key_sid=given.get("TWILIO_API_KEY_SID", ""),
            api_key_secret=given.get("TWILIO_API_KEY_SECRET", ""),
            app_sid=given.get("TWILIO_APP_SID"),
            messaging_service_sid=given.get("TWILIO_MESSAGING_SERVICE_SID"),
            api_base=base.rstrip("/") if base else None,
        )

    def warnings(self) -> list[str]:
        found: list[str] = []
        for name in self.unknown:
            close = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.8)
            if close:
                told = Text("%(name)s is not a setting of the hub; did you mean %(close)s?", name=name, close=close[0])
                found.append(told)
            else:
                found.append(Text("%(name)s is not a setting of the hub.", name=name))
        return found


MAKE_SECRET = "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105


def channels_off(twilio: TwilioAccount | None, *, smtp_url: str | None, imap_url: str | None) -> dict[str, str]:
    """Which channels a hub with these providers cannot offer, and what to set to have them. Web forms are always on."""
    off: dict[str, str] = {}
    if twilio is None:
        off["voice"] = off["sms"] = Text(
            "Twilio is not configured: enter the account under Admin, or set TWILIO_ACCOUNT_SID and its companions."
        )
    elif twilio.app_sid is None:
        off["voice"] = Text("TWILIO_APP_SID is not set: run `hub twilio setup` and set what it prints.")
    if smtp_url is None and imap_url is None:
        off["email"] = Text("No mailbox is configured: enter one under Admin, or set HUB_IMAP_URL and HUB_SMTP_URL.")
    elif smtp_url is None:
        off["email"] = Text("Mail comes in but cannot be answered: set HUB_SMTP_URL.")
    elif imap_url is None:
        off["email"] = Text("Mail can be sent but none comes in: set HUB_IMAP_URL.")
    return off


def kept_secret(path: Path) -> str:
    """The random key kept in this file (mode 0600), made on first use; of several processes at once one makes it."""
    if not path.exists():
        # Written beside and linked into place: nobody ever reads half a key, and the first one stays.
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secrets.token_urlsafe(48) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def parsed_url(text: str) -> SplitResult | None:
    """The parts of an address; None when its host or port cannot be read."""
    try:
        parts = urlsplit(text)
        _ = parts.port, parts.hostname  # both are checked only when they are read
    except ValueError:
        return None
    return parts


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listed(names: list[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
