/**
 * What can go wrong with the phone, as short codes. The texts an agent reads stand in the page's template, in the
 * reader's language; the code picks one of them.
 *
 * microphone_refused, microphone_missing, insecure_context, token_invalid, token_expired, network, connect_timeout,
 * call_failed, hung_up, busy, no_call, not_ready, rejoin_failed, signed_out, not_allowed, server,
 * owner_lost
 */
export class PhoneError extends Error {
  constructor(code, detail = "") {
    super(detail || code);
    this.name = "PhoneError";
    this.code = code;
    /** A sentence from the server, already in the reader's language; empty when the code says it all. */
    this.detail = detail;
  }
}

/** Rejects with the given code when the promise has not settled after `ms`. */
export function withDeadline(promise, ms, code) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new PhoneError(code)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What a tab posts to another: an Error itself does not keep its code on the way. */
export function plainError(error) {
  return { code: error?.code ?? "server", detail: error?.detail ?? "" };
}
