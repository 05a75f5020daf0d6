/**
 * How many text messages a text costs, counted while one types. The same rules as channels/segments.py; both are held to
 * tests/fixtures/segments.json. A field says where its count stands: data-segments="id of the count".
 */
const BASIC = new Set(
  "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿" +
    "abcdefghijklmnopqrstuvwxyzäöñüà",
);
const EXTENSION = new Set("\f^{}\\[~]|€");
const SINGLE = { "GSM-7": 160, "UCS-2": 70 };
const PART = { "GSM-7": 153, "UCS-2": 67 };
// Typographic characters and what says the same in GSM-7. One such character makes a text more than twice as dear.
export const PLAIN = {
  "‘": "'", "’": "'", "‚": "'", "‛": "'", "′": "'", "`": "'", "´": "'",
  "“": '"', "”": '"', "„": '"', "‟": '"', "″": '"', "«": '"', "»": '"', "‹": "'", "›": "'",
  "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "―": "-", "−": "-",
  "…": "...", "•": "*", "·": ".", "×": "x", "⁄": "/", "™": "(TM)", "®": "(R)", "©": "(C)",
  "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2007": " ", "\u2009": " ", "\u200a": " ", "\u202f": " ", "\t": " ",
  "\u200b": "", "\u200c": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
};

export function count(text) {
  const characters = [...text];
  const gsm = characters.every((one) => BASIC.has(one) || EXTENSION.has(one));
  const encoding = gsm ? "GSM-7" : "UCS-2";
  const sizes = characters.map((one) => (gsm ? (EXTENSION.has(one) ? 2 : 1) : one.length));
  const units = sizes.reduce((sum, size) => sum + size, 0);
  if (units <= SINGLE[encoding]) return { encoding, units, parts: text ? 1 : 0, perPart: SINGLE[encoding] };
  let parts = 1;
  let filled = 0;
  // A character of two units never straddles two parts.
  for (const size of sizes) {
    if (filled + size > PART[encoding]) {
      parts += 1;
      filled = 0;
    }
    filled += size;
  }
  return { encoding, units, parts, perPart: PART[encoding] };
}

export const plain = (text) => [...text].map((one) => PLAIN[one] ?? one).join("");

// What is sent: a form's text has \r\n where the field shows \n, and the hub sends neither as two.
const sent = (field) => field.value.replaceAll("\r\n", "\n").trim();

function show(field) {
  const place = document.getElementById(field.dataset.segments);
  if (!place) return;
  const text = sent(field);
  const cost = count(text);
  const room = cost.perPart * Math.max(cost.parts, 1);
  const parts = cost.parts === 1 ? field.dataset.part : field.dataset.parts.replace("2", cost.parts);
  const special = cost.encoding === "GSM-7" ? "" : ` · ${field.dataset.special}`;
  place.textContent = text ? `${cost.units}/${room} · ${parts}${special}` : "";
  const box = place.parentElement;
  const long = box.querySelector("[data-segments-long]");
  if (long) long.hidden = cost.parts <= Number(field.dataset.warnOver);
  const mend = box.querySelector("[data-segments-mend]");
  if (!mend) return;
  const mended = count(plain(text));
  // Worth a click when the text then takes fewer parts, or leaves the dear alphabet.
  mend.hidden = plain(text) === text || (mended.parts >= cost.parts && mended.encoding === cost.encoding);
  mend.querySelector("[data-segments-saves]").textContent = mended.parts < cost.parts ? `(${cost.parts} → ${mended.parts})` : "";
}

export function bindSegments() {
  document.addEventListener("input", ({ target }) => {
    if (target.matches?.("[data-segments]")) show(target);
  });
  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("[data-segments-mend]");
    const field = button && document.getElementById(button.dataset.segmentsMend);
    if (!field) return;
    field.value = plain(field.value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  });
  countAll();
}

export function countAll() {
  for (const field of document.querySelectorAll("[data-segments]")) show(field);
}
