/**
 * What the phone asks of the hub. All answers are JSON.
 *
 *   GET  /desk/phone/token             {token, line, identity, ttl_s}; line: {kind: "twilio"} | {kind: "sandbox", url}
 *                                      | {kind: "none", code} for whoever has no phone, and why
 *   GET  /desk/phone/state             {ringing, call: null | {interaction_id, state, customer, since, muted, held,
 *                                      rejoin_params, elsewhere}}; ringing: an offer waits that should be heard;
 *                                      elsewhere: another machine has the call on its line; ?take=1 takes it from there
 *   POST /desk/offers/{id}/accept      {nonce, connect}
 *   POST /desk/calls         {to, …}   {connect}
 *   POST /desk/calls/{id}/hold {held}, /mute {muted}, /end, /quality {seconds, warnings, lost, mos, …}
 *
 * Every request carries X-Phone-Device, a random name of this browser profile: an agent signed in on two machines has
 * one call, and only the machine that had it on its line may take it up again while that leg is still there.
 *
 * A refusal is a problem document (RFC 9457): its `code` and `detail` become those of the PhoneError.
 */
import { PhoneError, withDeadline } from "./errors.js";

const ANSWER_MS = 8000;

let device = null;

function thisDevice() {
  try {
    device ??= localStorage.getItem("hub-phone-device");
    device ??= crypto.randomUUID();
    localStorage.setItem("hub-phone-device", device);
  } catch {
    device ??= crypto.randomUUID(); // storage is switched off: the name lasts as long as the page
  }
  return device;
}

async function ask(path, { method = "GET", body } = {}) {
  const headers = { Accept: "application/json", "X-Phone-Device": thisDevice() };
  if (method !== "GET") {
    headers["Content-Type"] = "application/json";
    headers["X-CSRF"] = document.querySelector('meta[name="csrf-token"]')?.content ?? "";
  }
  const request = fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin" });
  const lost = () => Promise.reject(new PhoneError("network"));
  const response = await withDeadline(request.catch(lost), ANSWER_MS, "network");
  if (response.status === 401) throw new PhoneError("signed_out");
  if (response.status === 403) throw new PhoneError("not_allowed");
  const answer = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) throw new PhoneError(answer.code ?? "server", answer.detail ?? "");
  return answer;
}

const id = encodeURIComponent;

export const api = {
  token: () => ask("/desk/phone/token"),
  state: (take = false) => ask(`/desk/phone/state${take ? "?take=1" : ""}`),
  accept: (offer) => ask(`/desk/offers/${id(offer)}/accept`, { method: "POST", body: {} }),
  dial: (request) => ask("/desk/calls", { method: "POST", body: request }),
  hold: (call, held) => ask(`/desk/calls/${id(call)}/hold`, { method: "POST", body: { held } }),
  mute: (call, muted) => ask(`/desk/calls/${id(call)}/mute`, { method: "POST", body: { muted } }),
  quality: (call, report) => ask(`/desk/calls/${id(call)}/quality`, { method: "POST", body: report }),
  end: (call) => ask(`/desk/calls/${id(call)}/end`, { method: "POST", body: {} }),
};
