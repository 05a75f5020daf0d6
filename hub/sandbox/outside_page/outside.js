// The outside person's page: reads /outside/state, listens to /outside/events, acts through the control API.
import { Sound } from "/page/sound.js";

const $ = (id) => document.getElementById(id);
const memory = window.localStorage;
let state = { settings: { people: [], numbers: [] }, calls: [], messages: [], callbacks: [], faults: [], twin_faults: [] };
let mails = [];
let openMail = null;
let replyTo = null;
let seenTexts = 0;
let spoken = new Map();
const sounds = new Map(); // the agent's call -> Sound
let microphone = null;
let posts = Promise.resolve();

const FAULTS = {
  late: "Late callback", twice: "Delivered twice", out_of_order: "Out of order", lost: "Lost callback",
  rest_429: "Too many requests", rest_500: "Server error", rest_500_after: "Done, but error", media_500: "Picture not to be had", smtp_451: "Mail deferred",
};

async function api(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `${response.status}`);
  return answer;
}

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { $("toast").hidden = true; }, 4000);
}

const act = (work) => async (event) => {
  event?.preventDefault();
  try { await work(event); } catch (error) { toast(error.message); }
};

// Besides the people that the hub knows: somebody it has never heard of, and somebody who hides his number.
const STRANGERS = [
  { name: "Somebody unknown", number: "+12025550100", email: "stranger@example.com" },
  { name: "Number withheld", number: "anonymous", email: "withheld@example.com" },
];
const people = () => [...state.settings.people, ...STRANGERS];
const me = () => people().find((person) => person.number === memory.getItem("person")) || people()[0];
const el = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const time = (iso) => new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function options(select, items, current) {
  const wanted = JSON.stringify(items);
  if (select.dataset.items === wanted) return;
  select.dataset.items = wanted;
  select.replaceChildren(...items.map(([value, label]) => { const option = el("option", label); option.value = value; return option; }));
  if (current) select.value = current;
}

// --- telephone ---------------------------------------------------------------------------------------------------------

const mine = (call) => me() && (call.direction === "inbound" ? call.from === me().number : call.to === me().number);
const over = (call) => ["completed", "busy", "failed", "no-answer", "canceled"].includes(call.status);
const currentCall = () => state.calls.find((call) => mine(call) && !over(call) && call.status !== "queued");

function showPhone() {
  const call = currentCall();
  const rings = call && call.direction !== "inbound" && call.status === "ringing";
  $("idle").hidden = Boolean(call);
  $("ringing").hidden = !rings;
  $("talking").hidden = !call || rings;
  document.title = rings ? "☎ ringing · Outside" : "Outside · the sandbox";
  if (!call) {
    endSound();
    const past = state.calls.filter((each) => mine(each) && over(each)).slice(0, 12);
    $("recent").replaceChildren(...(past.length ? past.map((each) => {
      const row = el("li");
      row.append(el("span", each.direction === "inbound" ? `to ${each.to}` : `from ${each.from}`));
      row.append(el("span", `${each.status} · ${each.duration_s ?? 0} s`, "soft"));
      return row;
    }) : [el("li", "No calls yet.", "soft")]));
    return;
  }
  if (rings) { $("ringing-from").textContent = call.from; return; }
  $("talking-with").textContent = call.direction === "inbound" ? call.to : call.from;
  const company = call.company.map((each) => each.address.startsWith("client:") ? "an agent" : each.address).join(", ");
  const doing = company ? `talking with ${company}` : call.listening ? "your turn: press or speak" : call.doing || call.status;
  const since = call.answered_at ? Math.max(0, Math.round((Date.now() - new Date(call.answered_at)) / 1000)) : 0;
  $("talking-state").textContent = `${doing} · ${Math.floor(since / 60)}:${String(since % 60).padStart(2, "0")}`;
  const list = $("heard");
  const key = `${call.sid}:${call.heard.length}:${call.heard.at(-1)?.at}`;
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    const signs = { music: "♪ ", beep: "• ", tone: "• ", play: "♪ ", keys: "⌨ ", voice: "“" };
    list.replaceChildren(...call.heard.map((item) => el("li", (signs[item.kind] || "") + item.text, item.kind)));
    list.scrollTop = list.scrollHeight;
    readAloud(call);
  }
}

function readAloud(call) {
  const from = spoken.get(call.sid) ?? 0;
  spoken.set(call.sid, call.heard.length);
  if (!$("aloud").checked || !window.speechSynthesis) return;
  for (const item of call.heard.slice(from)) if (item.kind === "say" || item.kind === "voice") {
    window.speechSynthesis.speak(new SpeechSynthesisUtterance(item.text));
  }
}

$("dial").addEventListener("click", act(() => api("POST", "/outside/calls", { from: me().number, to: $("hub-number").value })));
$("answer").addEventListener("click", act(() => api("POST", `/outside/calls/${currentCall().sid}/answer`, {})));
$("refuse").addEventListener("click", act(() => api("POST", `/outside/calls/${currentCall().sid}/refuse`, {})));
$("hangup").addEventListener("click", act(() => api("POST", `/outside/calls/${currentCall().sid}/hangup`, {})));
document.querySelector(".phone .keys").addEventListener("click", act(async (event) => {
  if (event.target.tagName === "BUTTON") {
    await api("POST", `/outside/calls/${currentCall().sid}/digits`, { digits: event.target.textContent, wait_s: 3 });
  }
}));
$("speak").addEventListener("submit", act(async () => {
  const text = $("speech").value.trim();
  if (!text) return;
  await api("POST", `/outside/calls/${currentCall().sid}/speech`, { text, wait_s: 3 });
  $("speech").value = "";
}));

// --- sound: straight to the agent's page, signalled through the twin ----------------------------------------------------

function wanted() { return memory.getItem("sound") === "on"; }

function showSound() {
  $("sound").textContent = wanted() ? "Sound on" : "Sound off";
  $("sound").setAttribute("aria-pressed", String(wanted()));
}

function endSound() {
  for (const peer of sounds.values()) peer.close();
  sounds.clear();
  microphone?.then((stream) => stream?.getTracks().forEach((track) => track.stop()));
  microphone = null;
}

/** One connection to each browser that the call is connected with; a telephone has no sound here. */
async function keepSound() {
  const call = currentCall();
  const peers = wanted() && call ? call.company.filter((each) => each.address.startsWith("client:")).map((each) => each.call) : [];
  for (const [sid, peer] of sounds) if (!peers.includes(sid)) { peer.close(); sounds.delete(sid); }
  if (!peers.length) return;
  microphone ??= (navigator.mediaDevices?.getUserMedia({ audio: true }) ?? Promise.resolve(null)).catch(() => {
    toast("No microphone: you only listen.");
    return null;
  });
  const stream = await microphone;
  for (const sid of peers) if (!sounds.has(sid)) {
    const send = (data) => { posts = posts.then(() => api("POST", `/outside/calls/${call.sid}/signal`, { data, to: sid })).catch(() => {}); };
    sounds.set(sid, new Sound(send, stream, $("far")));
  }
}

$("sound").addEventListener("click", act(async () => {
  memory.setItem("sound", wanted() ? "off" : "on");
  if (!wanted()) endSound();
  showSound();
  await keepSound();
}));

// --- texts -------------------------------------------------------------------------------------------------------------

function showTexts() {
  const number = $("text-number").value;
  const texts = state.messages.filter((text) => me() && [text.from, text.to].includes(me().number) && [text.from, text.to].includes(number));
  const key = JSON.stringify(texts.map((text) => [text.sid, text.status]));
  if ($("thread").dataset.key !== key) {
    $("thread").dataset.key = key;
    $("thread").replaceChildren(...texts.map((text) => {
      const own = text.from === me().number;
      const row = el("li", text.body || (text.media.length ? "" : "(empty)"), own ? "mine" : "theirs");
      for (const file of text.media) {
        const link = el("a", file.content_type.startsWith("image/") ? "" : file.content_type);
        link.href = file.url;
        if (file.content_type.startsWith("image/")) {
          const picture = document.createElement("img");
          picture.src = file.url;
          picture.alt = "Picture";
          link.append(picture);
        }
        row.append(link);
      }
      row.append(el("small", own ? time(text.at) : `${time(text.at)} · ${text.status}`));
      return row;
    }));
    $("thread").scrollTop = $("thread").scrollHeight;
  }
  const incoming = state.messages.filter((text) => me() && text.to === me().number).length;
  const open = !$("pane-text").hidden;
  if (open) seenTexts = incoming;
  $("text-count").hidden = incoming <= seenTexts;
  $("text-count").textContent = String(incoming - seenTexts);
}

async function encoded(file) {
  const url = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.readAsDataURL(file);
  });
  return { content_type: file.type || "application/octet-stream", data: url.slice(url.indexOf(",") + 1) };
}

$("text-form").addEventListener("submit", act(async () => {
  const body = $("text-body").value;
  const media = await Promise.all([...$("text-files").files].map(encoded));
  if (!body.trim() && !media.length) return;
  await api("POST", "/outside/messages", { from: me().number, to: $("text-number").value, body, media });
  $("text-body").value = "";
  $("text-files").value = "";
}));
$("text-number").addEventListener("change", showTexts);

for (const [tab, pane, other, otherPane] of [["tab-call", "pane-call", "tab-text", "pane-text"], ["tab-text", "pane-text", "tab-call", "pane-call"]]) {
  $(tab).addEventListener("click", () => {
    $(tab).setAttribute("aria-selected", "true");
    $(other).setAttribute("aria-selected", "false");
    $(pane).hidden = false;
    $(otherPane).hidden = true;
    showTexts();
  });
  $(tab).addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") { $(other).click(); $(other).focus(); }
  });
}

// --- mailbox -----------------------------------------------------------------------------------------------------------

let mailTimer = 0;
/** A campaign may deliver hundreds a second: look at most twice a second, and only for this person's. */
function mailCame(address) {
  if (mailTimer || !me() || (address && address !== me().email.toLowerCase())) return;
  mailTimer = setTimeout(() => { mailTimer = 0; loadMails().catch((error) => toast(error.message)); }, 400);
}

async function loadMails() {
  if (!me()) return;
  mails = (await api("GET", `/outside/mails?address=${encodeURIComponent(me().email)}`)).mails;
  $("mails").replaceChildren(...(mails.length ? mails.map((mail) => {
    const row = el("li", undefined, mail.read ? "" : "new");
    const button = el("button");
    button.append(el("strong", mail.subject || "(no subject)"), el("span", mail.from), el("span", new Date(mail.at).toLocaleString()));
    button.setAttribute("aria-current", String(openMail === mail.id));
    button.addEventListener("click", act(() => readMail(mail)));
    row.append(button);
    return row;
  }) : [el("li", "No mail yet.", "soft empty-mails")]));
}

async function readMail(mail) {
  openMail = mail.id;
  const full = await api("GET", `/outside/mails/${encodeURIComponent(mail.address)}/${mail.id}`);
  const base = `/outside/mails/${encodeURIComponent(mail.address)}/${mail.id}`;
  const reader = $("reader");
  const facts = el("dl");
  for (const [name, value] of [["From", full.from], ["To", full.to], ["Date", new Date(full.at).toLocaleString()]]) facts.append(el("dt", name), el("dd", value));
  reader.replaceChildren(el("h3", full.subject || "(no subject)"), facts);
  if (full.html) {
    const frame = el("iframe");
    frame.title = "The mail's HTML";
    frame.setAttribute("sandbox", "allow-popups");
    frame.src = `${base}/html`;
    reader.append(frame);
  }
  if (full.text) reader.append(el("pre", full.text));
  for (const attachment of full.attachments) {
    const link = el("a", `${attachment.name} (${attachment.size} bytes)`);
    link.href = `${base}/parts/${attachment.part}`;
    reader.append(el("br"), link);
  }
  const row = el("p");
  const reply = el("button", "Reply", "go small");
  reply.addEventListener("click", () => openLetter(full));
  row.append(reply);
  const unsubscribe = /<(https?:[^>]+)>/.exec(full.list_unsubscribe || "");
  if (unsubscribe) {
    const leave = el("a", "Unsubscribe");
    leave.href = unsubscribe[1];
    leave.target = "_blank";
    leave.rel = "noopener";
    row.append(" ", leave);
  }
  const raw = el("a", "Show source");
  raw.href = `${base}/raw`;
  raw.target = "_blank";
  row.append(" ", raw);
  reader.append(row);
  await loadMails();
}

function openLetter(full) {
  replyTo = full || null;
  const address = full && (/<([^>]+)>/.exec(full.from)?.[1] || full.from);
  $("letter-to").value = address || state.settings.mailbox || "";
  $("letter-subject").value = full ? (/^re:/i.test(full.subject) ? full.subject : `Re: ${full.subject}`) : "";
  $("letter-text").value = full ? `\n\n> ${full.text.trim().split("\n").join("\n> ")}` : "";
  $("letter").hidden = false;
  $("letter-text").focus();
  $("letter-text").setSelectionRange(0, 0);
}

$("compose").addEventListener("click", () => openLetter(null));
$("letter-cancel").addEventListener("click", () => { $("letter").hidden = true; });
$("letter").addEventListener("submit", act(async () => {
  const body = { from: me().email, to: $("letter-to").value, subject: $("letter-subject").value, text: $("letter-text").value, html: $("letter-html").value };
  if (replyTo) { body.in_reply_to = replyTo.message_id; body.references = replyTo.message_id; }
  const file = $("letter-file").files[0];
  if (file) {
    const data = await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });
    body.attachments = [{ name: file.name, type: file.type || "application/octet-stream", base64: String(data).split(",")[1] }];
  }
  await api("POST", "/outside/mails", body);
  $("letter").reset();
  $("letter").hidden = true;
  toast("Sent.");
}));

// --- faults, problems, log ---------------------------------------------------------------------------------------------

function showSide() {
  const armed = new Map(state.faults.map((fault) => [fault.kind, fault]));
  $("faults").replaceChildren(...Object.entries(FAULTS).map(([kind, label]) => {
    const left = armed.get(kind)?.next || 0;
    const button = el("button", left ? `${label} ×${left}` : label, left ? "armed" : "");
    button.title = "Happens to the next one; press again for more";
    button.addEventListener("click", act(() => api("POST", "/outside/faults", { kind, next: left + 1 }).then(load)));
    return button;
  }));
  $("problems").hidden = !state.twin_faults.length;
  $("problem-list").replaceChildren(...state.twin_faults.slice(-12).map((fault) => el("li", `${fault.code}: ${fault.message}`)));
  const open = new Set([...document.querySelectorAll("#log details[open]")].map((node) => node.dataset.number));
  $("log").replaceChildren(...state.callbacks.map((entry) => {
    const row = el("li", undefined, entry.status && entry.status < 300 ? "" : "bad");
    const details = el("details");
    details.dataset.number = String(entry.number);
    details.open = open.has(String(entry.number));
    const path = new URL(entry.url, location.href).pathname;
    const what = entry.params.StatusCallbackEvent || entry.params.MessageStatus || entry.params.QueueResult || entry.params.CallStatus || "";
    details.append(el("summary", `${time(entry.at)} ${entry.kind} ${what} → ${entry.status ?? entry.note ?? "…"}`));
    details.append(el("pre", `${entry.method} ${path} ${entry.note}\n${Object.entries(entry.params).filter(([, value]) => value).map(([name, value]) => `${name}: ${value}`).join("\n")}\n\n${entry.answer}`));
    row.append(details);
    return row;
  }));
}

$("calm").addEventListener("click", act(() => api("DELETE", "/outside/faults").then(load)));
$("forgive").addEventListener("click", act(() => api("DELETE", "/outside/twin-faults").then(load)));
$("speed").addEventListener("change", act(() => api("POST", "/outside/settings", { speech_scale: Number($("speed").value) })));
$("person").addEventListener("change", act(async () => {
  memory.setItem("person", $("person").value);
  openMail = null;
  seenTexts = 0;
  $("reader").replaceChildren(el("p", "Choose a mail, or write one to the company.", "soft empty"));
  await load();
  await loadMails();
}));

// --- live --------------------------------------------------------------------------------------------------------------

function show() {
  const { numbers, form_url: form, speech_scale: speed } = state.settings;
  options($("person"), people().map((person) => [person.number, `${person.name} · ${person.number}`]), me()?.number);
  const labelled = numbers.map((number) => [number.number, number.label === number.number ? number.number : `${number.label} · ${number.number}`]);
  options($("hub-number"), labelled);
  options($("text-number"), labelled);
  $("phone-number").textContent = me()?.number || "nobody yet";
  $("mail-address").textContent = me()?.email || "";
  $("dial").disabled = !me() || !numbers.length;
  $("form-link").hidden = !form;
  $("form-none").hidden = Boolean(form);
  if (form) $("form-link").href = form;
  if (document.activeElement !== $("speed")) {
    $("speed").value = [...$("speed").options].map((option) => option.value).reduce((best, value) => Math.abs(value - speed) < Math.abs(best - speed) ? value : best);
  }
  showPhone();
  showTexts();
  showSide();
  keepSound();
}

let loading = false;
let again = false;
async function load() {
  if (loading) { again = true; return; }
  loading = true;
  try {
    const number = me().number;
    state = await api("GET", `/outside/state?number=${encodeURIComponent(number)}`);
    if (me().number !== number) again = true; // the first answer tells who there is
    show();
  } catch (error) { toast(error.message); }
  loading = false;
  if (again) { again = false; setTimeout(load, 80); }
}

function listen() {
  const source = new EventSource("/outside/events");
  source.onopen = () => { $("live").textContent = "live"; $("live").className = "live on"; load().then(loadMails); };
  source.onerror = () => { $("live").textContent = "reconnecting…"; $("live").className = "live"; };
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (news.kind === "signal") { if (news.sid === currentCall()?.sid) sounds.get(news.sender)?.take(news.data); }
    else if (news.kind === "mail") mailCame(news.address);
    else load();
  };
}

showSound();
setInterval(() => {
  $("clock").textContent = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (currentCall()) showPhone();
}, 1000);
listen();
