/**
 * The phone as the rest of the desktop sees it. Which line is behind it, Twilio's or the sandbox's, is the server's
 * decision; nobody but this file asks.
 *
 * A line has
 *   register()           resolves when calls can be made and taken
 *   connect(params)      resolves with a call that is on its way; params are strings and reach the TwiML App
 *   close()              ends everything at once
 *   busy                 a call is on the line
 *   rings                it plays the incoming ring itself
 *   needsMicrophone      a call without a microphone cannot be
 *   events: state {state: "registering" | "ready" | "off" | "error", code}, incoming (call), error {code, detail}
 *
 * A call has
 *   id, params, direction ("in" | "out"), muted, open
 *   accept(), reject(), mute(bool), digits("1"), hangup()
 *   events: ringing, accepted, disconnected {reason: "local" | "remote" | "cancelled" | "failed"}, mute (bool),
 *           quality {level: "good" | "poor" | "lost", name}, error {code, detail}
 *   disconnected comes exactly once, whatever happened before it.
 */
import { PhoneError } from "./errors.js";
import { SandboxLine } from "./sandbox_line.js";
import { TwilioLine } from "./twilio_line.js";

const LINES = { twilio: TwilioLine, sandbox: SandboxLine };

/**
 * The line that the server's grant names.
 * @param grant what GET /desk/phone/token gave: {token, line, identity, ttl_s}
 * @param options {renew: async () => grant, assets: where the vendor script and the sounds lie}
 */
export function openLine(grant, options) {
  const Line = LINES[grant.line.kind];
  if (!Line) throw new PhoneError("not_ready", `unknown line ${grant.line.kind}`);
  return new Line(grant, options);
}
