"""What callers and writers hear and read from the hub itself, in the queue's language: English, Spanish, German, Chinese.

Numbers are read digit by digit. A language that is missing falls back to English.
"""

from __future__ import annotations

import re

from channels.steps import Say
from crm_core.errors import Invalid
from crm_core.texts import Text

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "welcome": "Thank you for calling. Please hold; the next free colleague will help you.",
        "position": "You are number {position} in the queue.",
        "next": "You are next.",
        "estimate": "Most callers wait less than {minutes} minutes.",
        "estimate_one": "Most callers wait less than a minute.",
        "offer": "Press 1 and we call you back; you keep your place.",
        "promised": "We will call you back on {number}. You keep your place in the queue. Thank you, goodbye.",
        "too_late": "A colleague is just taking your call. Please stay on the line.",
        "withheld": "We cannot see your number, so we cannot call you back. Please stay on the line.",
        "closed": "We are closed at the moment.",
        "closed_offer": "Press 1 and we call you back when we are open.",
        "closed_promised": "We will call you back on {number} when we are open. Thank you, goodbye.",
        "overflow": "We are sorry: nobody could take your call.",
        "rescue": "The connection to our colleague was lost. You are first in line; please stay with us.",
        "retry": "One moment please, we are finding another colleague.",
        "transfer": "One moment please, I am putting you through.",
        "gone": "This call is no longer there.",
        "not_yours": "This call cannot be joined from here.",
        "unknown_number": "This number is not in service.",
        "again": "That was not one of the choices.",
        "bye": "Thank you for calling. Goodbye.",
        "stopped": "You will get no more messages from this number. Reply START to get them again.",
        "started": "You will get messages from this number again. Reply STOP to end them.",
        "help": "You are writing with {name}. Reply STOP to get no more messages.",
        "consent": "This call may be recorded to improve our service.",
        "consent_ask": "This call may be recorded. Press 1 if you do not want that.",
        "consent_refused": "This call will not be recorded.",
        "voicemail": "Please leave a message after the tone. Press the hash key when you are done.",
        "voicemail_kept": "Thank you. Your message has been left; we will call you back. Goodbye.",
        "voicemail_offer": "Press 2 to leave a message.",
        "screen": "Please press 1 to be connected.",
        "handset": "A caller is waiting for you. Press 1 to take the call.",
        "blocked": "We cannot take your call.",
        "plus": "plus",
    },
    "es": {
        "welcome": "Gracias por llamar. Espere, por favor; le atenderá el próximo agente libre.",
        "position": "Ocupa el puesto {position} en la cola.",
        "next": "Es la siguiente persona en la cola.",
        "estimate": "La mayoría espera menos de {minutes} minutos.",
        "estimate_one": "La mayoría espera menos de un minuto.",
        "offer": "Pulse 1 y le devolvemos la llamada; conserva su puesto.",
        "promised": "Le llamaremos al {number}. Conserva su puesto en la cola. Gracias, hasta luego.",
        "too_late": "Un agente está tomando su llamada ahora mismo. No cuelgue, por favor.",
        "withheld": "No vemos su número y no podemos devolverle la llamada. No cuelgue, por favor.",
        "closed": "Ahora mismo estamos cerrados.",
        "closed_offer": "Pulse 1 y le llamamos cuando abramos.",
        "closed_promised": "Le llamaremos al {number} cuando abramos. Gracias, hasta luego.",
        "overflow": "Lo sentimos: nadie ha podido atender su llamada.",
        "rescue": "Se ha perdido la conexión con el agente. Es la primera persona en la cola; no cuelgue, por favor.",
        "retry": "Un momento, por favor; buscamos a otro agente.",
        "transfer": "Un momento, por favor; le paso la llamada.",
        "gone": "Esta llamada ya no existe.",
        "not_yours": "No puede unirse a esta llamada desde aquí.",
        "unknown_number": "Este número no está en servicio.",
        "again": "Esa no es una de las opciones.",
        "bye": "Gracias por llamar. Hasta luego.",
        "stopped": "No recibirá más mensajes de este número. Responda START para volver a recibirlos.",
        "started": "Volverá a recibir mensajes de este número. Responda STOP para dejar de recibirlos.",
        "help": "Está escribiendo con {name}. Responda STOP para no recibir más mensajes.",
        "consent": "Esta llamada puede grabarse para mejorar nuestro servicio.",
        "consent_ask": "Esta llamada puede grabarse. Pulse 1 si no lo desea.",
        "consent_refused": "Esta llamada no se grabará.",
        "voicemail": "Deje su mensaje después de la señal. Pulse almohadilla al terminar.",
        "voicemail_kept": "Gracias. Hemos recibido su mensaje y le llamaremos. Hasta luego.",
        "voicemail_offer": "Pulse 2 para dejar un mensaje.",
        "screen": "Pulse 1 para que le pasemos la llamada.",
        "handset": "Hay una llamada para usted. Pulse 1 para atenderla.",
        "blocked": "No podemos atender su llamada.",
        "plus": "más",
    },
    "de": {
        "welcome": "Danke für Ihren Anruf. Bitte bleiben Sie dran; der nächste freie Platz ist für Sie.",
        "position": "Sie sind Nummer {position} in der Warteschlange.",
        "next": "Sie sind als Nächstes an der Reihe.",
        "estimate": "Die meisten warten weniger als {minutes} Minuten.",
        "estimate_one": "Die meisten warten weniger als eine Minute.",
        "offer": "Drücken Sie die 1, dann rufen wir Sie zurück; Ihr Platz bleibt Ihnen.",
        "promised": "Wir rufen Sie unter {number} zurück. Ihr Platz bleibt Ihnen. Danke, auf Wiederhören.",
        "too_late": "Ihr Anruf wird gerade angenommen. Bitte bleiben Sie dran.",
        "withheld": "Wir sehen Ihre Nummer nicht und können Sie nicht zurückrufen. Bitte bleiben Sie dran.",
        "closed": "Im Moment ist geschlossen.",
        "closed_offer": "Drücken Sie die 1, dann rufen wir Sie zurück, sobald wir wieder da sind.",
        "closed_promised": "Wir rufen Sie unter {number} zurück, sobald wir wieder da sind. Danke, auf Wiederhören.",
        "overflow": "Es tut uns leid: niemand konnte Ihren Anruf annehmen.",
        "rescue": "Die Verbindung ist abgerissen. Sie sind als Nächstes an der Reihe; bitte bleiben Sie dran.",
        "retry": "Einen Moment bitte, wir suchen jemand anderen für Sie.",
        "transfer": "Einen Moment bitte, ich verbinde Sie.",
        "gone": "Dieser Anruf ist nicht mehr da.",
        "not_yours": "Diesem Anruf können Sie von hier nicht beitreten.",
        "unknown_number": "Diese Nummer ist nicht vergeben.",
        "again": "Das war keine der Möglichkeiten.",
        "bye": "Danke für Ihren Anruf. Auf Wiederhören.",
        "stopped": "Sie bekommen keine Nachrichten mehr von dieser Nummer. Antworten Sie START, um sie wieder zu bekommen.",
        "started": "Sie bekommen wieder Nachrichten von dieser Nummer. Antworten Sie STOP, um sie zu beenden.",
        "help": "Sie schreiben mit {name}. Antworten Sie STOP, um keine Nachrichten mehr zu bekommen.",
        "consent": "Dieses Gespräch kann aufgezeichnet werden, um unseren Service zu verbessern.",
        "consent_ask": "Dieses Gespräch kann aufgezeichnet werden. Drücken Sie die 1, wenn Sie das nicht möchten.",
        "consent_refused": "Dieses Gespräch wird nicht aufgezeichnet.",
        "voicemail": "Bitte sprechen Sie nach dem Ton. Drücken Sie die Raute, wenn Sie fertig sind.",
        "voicemail_kept": "Danke. Ihre Nachricht ist angekommen; wir rufen Sie zurück. Auf Wiederhören.",
        "voicemail_offer": "Drücken Sie die 2, um eine Nachricht zu hinterlassen.",
        "screen": "Bitte drücken Sie die 1, um verbunden zu werden.",
        "handset": "Ein Anruf für Sie. Drücken Sie die 1, um ihn anzunehmen.",
        "blocked": "Wir können Ihren Anruf nicht annehmen.",
        "plus": "plus",
    },
    "zh": {
        "welcome": "感谢您的来电。请稍候，下一位空闲的同事将为您服务。",
        "position": "您排在第{position}位。",
        "next": "下一位就是您。",
        "estimate": "大多数来电者等待不到{minutes}分钟。",
        "estimate_one": "大多数来电者等待不到一分钟。",
        "offer": "请按1，我们会给您回电，并保留您的位置。",
        "promised": "我们会拨打{number}给您回电，并保留您的位置。谢谢，再见。",
        "too_late": "同事正在接听您的电话，请不要挂断。",
        "withheld": "我们看不到您的号码，无法回电。请不要挂断。",
        "closed": "现在不在营业时间。",
        "closed_offer": "请按1，我们会在营业时给您回电。",
        "closed_promised": "我们会在营业时拨打{number}给您回电。谢谢，再见。",
        "overflow": "非常抱歉，没有人能接听您的电话。",
        "rescue": "与同事的连接中断了。您排在第一位，请不要挂断。",
        "retry": "请稍候，我们正在为您找另一位同事。",
        "transfer": "请稍候，正在为您转接。",
        "gone": "这通电话已经不在了。",
        "not_yours": "您不能从这里加入这通电话。",
        "unknown_number": "此号码未启用。",
        "again": "没有这个选项。",
        "bye": "感谢您的来电，再见。",
        "stopped": "您将不再收到此号码的短信。回复START可重新接收。",
        "started": "您将重新收到此号码的短信。回复STOP可停止接收。",
        "help": "您正在与{name}联系。回复STOP可停止接收短信。",
        "consent": "为改进服务，本次通话可能会被录音。",
        "consent_ask": "本次通话可能会被录音。如不同意，请按1。",
        "consent_refused": "本次通话不会被录音。",
        "voicemail": "请在提示音后留言，留言完毕请按井号键。",
        "voicemail_kept": "谢谢，我们已收到您的留言，会给您回电。再见。",
        "voicemail_offer": "如需留言，请按2。",
        "screen": "请按1接通。",
        "handset": "有您的来电。请按1接听。",
        "blocked": "我们无法接听您的来电。",
        "plus": "加",
    },
}


def check_language(tag: str) -> None:
    """Invalid when this is no language tag: the provider refuses what is to be said in it."""
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}", tag):
        raise Invalid("This is not a language.", fields={"language": Text("Write it as en-GB.")})


def text(key: str, language: str, **values: object) -> str:
    """The sentence in the nearest language there is."""
    table = TEXTS.get(language.partition("-")[0].lower(), TEXTS["en"])
    return table[key].format(**values)


def say(key: str, language: str, **values: object) -> Say:
    """The sentence as a step of a call."""
    known = language.partition("-")[0].lower() in TEXTS
    return Say(text(key, language, **values), language if known else "en-GB")


def spoken(e164: str, language: str) -> str:
    """A number as it is read out: digit by digit."""
    digits = " ".join(e164.lstrip("+"))
    return f"{text('plus', language)} {digits}" if e164.startswith("+") else digits
