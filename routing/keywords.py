"""The words that a law or a provider gives a meaning when somebody texts them: STOP, START, HELP, in many languages.

A word alone acts, whatever its case, accents and punctuation; a stop word among a few polite ones acts too (“Please stop”,
“STOP texting me”). A longer sentence is a message like any other and reaches a person. Sources: Twilio, "Advanced Opt-Out"
(default words of long codes: STOP UNSUBSCRIBE END QUIT STOPALL REVOKE OPTOUT CANCEL; copy seen 2026-11); START YES UNSTOP
and HELP INFO, and AWS's ARRET TD REMOVE, as in the knowledge notes; the words of other languages are those that carriers
and senders there print below their texts, unconfirmed.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

LONGEST = 5  # words

STOP: dict[str, str] = {
    "": "stop stopall unsubscribe end quit revoke optout cancel remove",
    "es": "baja alto parar pare detener",
    "de": "stopp abmelden abbestellen austragen",
    "fr": "arret arrete arretez desabonner desabonnement",
    "it": "ferma fermare basta disiscrivi",
    "pt": "sair pare parar descadastrar",
    "nl": "stoppen afmelden uitschrijven",
    "sv": "stopp sluta avsluta",
    "da": "afmeld stop",
    "no": "stopp avmeld",
    "fi": "seis lopeta",
    "pl": "wypisz rezygnuje zatrzymaj",
    "cs": "odhlasit",
    "hu": "leiratkozas leiratkozom",
    "ro": "dezabonare",
    "el": "στοπ διακοπη",
    "tr": "dur durdur ret iptal",
    "ru": "стоп отписаться отписка",
    "uk": "стоп відписатися",
    "ar": "إيقاف ايقاف توقف الغاء إلغاء",
    "he": "הסר עצור",
    "hi": "रोकें रोको बंद",
    "id": "berhenti",
    "vi": "huy tuchoi",
    "zh": "退订 退訂 停止 取消订阅 取消訂閱 td",
    "ja": "停止 配信停止 解除",
    "ko": "수신거부 중지 거부",
}
START: dict[str, str] = {
    "": "start unstop yes",
    "es": "alta empezar iniciar",
    "de": "anmelden",
    "fr": "demarrer reprendre",
    "it": "inizia",
    "pt": "iniciar comecar",
    "nl": "starten aanmelden",
    "pl": "zapisz",
    "ru": "старт",
    "zh": "订阅 訂閱 开始 開始",
    "ja": "再開",
    "ko": "시작",
}
HELP: dict[str, str] = {
    "": "help info",
    "es": "ayuda",
    "de": "hilfe",
    "fr": "aide",
    "it": "aiuto",
    "pt": "ajuda",
    "nl": "hulp",
    "sv": "hjalp",
    "da": "hjælp",
    "no": "hjelp",
    "fi": "apua",
    "pl": "pomoc",
    "cs": "pomoc",
    "hu": "segitseg",
    "ro": "ajutor",
    "el": "βοηθεια",
    "tr": "yardım",
    "ru": "помощь",
    "uk": "допомога",
    "ar": "مساعدة",
    "he": "עזרה",
    "hi": "मदद",
    "id": "bantuan",
    "zh": "帮助 幫助",
    "ja": "ヘルプ",
    "ko": "도움말",
}
# Stop words that leave no doubt even beside other words, and the words that may stand there.
SURE = "stop stopall unsubscribe stopp baja arret arrete arretez afmelden abmelden стоп"
POLITE = (
    "please pls now all me my this these it texting sending messaging messages message msg msgs texts text sms thanks thank you "
    "right away from to the number spam por favor gracias ya mensajes bitte danke sofort nachrichten s'il vous plait svp merci "
    "messaggi grazie mensagens obrigado alstublieft berichten пожалуйста"
)


@dataclass(frozen=True, slots=True)
class Keyword:
    """What it means, and the language it was said in; empty for words that are used everywhere."""

    word: str  # STOP, START or HELP
    language: str


def folded(text: str) -> str:
    """Lower case, full-width forms made plain, accents and punctuation dropped, single spaces."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = plain.replace("ı", "i")  # Turkish: YARDIM is typed as often as yardım
    kept = "".join(c if unicodedata.category(c)[0] in "LN" else "" if unicodedata.combining(c) else " " for c in plain)
    return " ".join(unicodedata.normalize("NFC", kept).split())


def _table() -> dict[str, Keyword]:
    made: dict[str, Keyword] = {}
    # Where a word means two things, stopping wins; where two languages share one, it belongs to neither.
    for word, languages in (("STOP", STOP), ("HELP", HELP), ("START", START)):
        for language, listed in languages.items():
            for one in map(folded, listed.split()):
                known = made.get(one)
                if known is None:
                    made[one] = Keyword(word, language)
                elif known.word == word and known.language != language:
                    made[one] = Keyword(word, "")
    return made


WORDS = _table()
_SURE = frozenset(map(folded, SURE.split()))
_POLITE = frozenset(part for one in POLITE.split() for part in folded(one).split())


def find(text: str) -> Keyword | None:
    """The keyword that this text is, or None when a person must read it."""
    said = folded(text)
    known = WORDS.get(said) or WORDS.get(said.replace(" ", ""))
    if known is not None:
        return known
    words = said.split()
    sure = [word for word in words if word in _SURE]
    if len(words) <= LONGEST and sure and all(word in _POLITE for word in words if word not in _SURE):
        return WORDS[sure[0]]
    return None
