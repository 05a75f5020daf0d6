/**
 * Sound between two browsers over one RTCPeerConnection, for lines whose own signalling carries opaque messages.
 * Used by the sandbox line and by the sandbox's page of the outside person.
 *
 * Both ends say hello with a fresh random name as soon as their call is up, and answer a hello that is no answer. The
 * end with the greater name offers. So neither end has to know who came first, an end that comes back after a reload
 * starts afresh by its new name, and two offers never cross.
 *
 * Messages: {hello, answer: bool} | {description, to} | {candidate, to}; `to` is the name that they are meant for.
 *
 * Without a microphone (none there, or refused) the end only listens; without any sound at all the call goes on.
 */
import { Emitter } from "./emitter.js";

/** The microphone, or null where there is none or it is refused. */
export async function openMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    return null;
  }
}

/** Events: state ("connecting" | "connected" | "listening" | "none"). */
export class PeerSound extends Emitter {
  #send;
  #name = crypto.randomUUID();
  #other = null;
  #peer = null;
  #microphone;
  #closed = false;
  #work = Promise.resolve();
  #element = new Audio();

  /**
   * @param send function that carries one message to the other end
   * @param microphone promise of a stream or null; whoever opened it mutes and stops it
   */
  constructor(send, microphone = openMicrophone()) {
    super();
    this.#send = send;
    this.#microphone = microphone;
    this.#element.autoplay = true;
  }

  /** Call once when the call is up. */
  start() {
    this.#send({ hello: this.#name, answer: false });
  }

  /** A message from the other end; they are worked through in the order in which they came. */
  receive(message) {
    this.#work = this.#work.then(() => this.#closed || this.#take(message)).catch(() => this.emit("state", "none"));
  }

  /** Bytes of sound that arrived, for tests and for a quality display. */
  async received() {
    let bytes = 0;
    for (const entry of (await this.#peer?.getStats())?.values() ?? []) {
      if (entry.type === "inbound-rtp") bytes += entry.bytesReceived;
    }
    return bytes;
  }

  close() {
    this.#closed = true;
    this.#peer?.close();
    this.#element.srcObject = null;
  }

  async #take(message) {
    if (message.hello) {
      if (!message.answer) this.#send({ hello: this.#name, answer: true });
      if (message.hello === this.#other) return;
      this.#other = message.hello;
      await this.#renewPeer();
      if (this.#name > this.#other) {
        await this.#peer.setLocalDescription();
        this.#tell({ description: this.#peer.localDescription.toJSON() });
      }
    } else if (message.to !== this.#name || !this.#peer) {
      return;
    } else if (message.description) {
      await this.#peer.setRemoteDescription(message.description);
      if (message.description.type === "offer") {
        await this.#peer.setLocalDescription();
        this.#tell({ description: this.#peer.localDescription.toJSON() });
      }
    } else if (message.candidate) {
      await this.#peer.addIceCandidate(message.candidate);
    }
  }

  #tell(message) {
    this.#send({ ...message, to: this.#other });
  }

  async #renewPeer() {
    const stream = await this.#microphone;
    this.#peer?.close();
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.#peer = peer;
    const track = stream?.getAudioTracks()[0];
    if (track) peer.addTrack(track, stream);
    // Only the end that offers needs a place for what it will hear; the other gets it from the offer.
    else if (this.#name > this.#other) peer.addTransceiver("audio", { direction: "recvonly" });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate && peer === this.#peer) this.#tell({ candidate: candidate.toJSON() });
    });
    peer.addEventListener("track", ({ track: heard }) => {
      this.#element.srcObject = new MediaStream([heard]);
      this.#element.play().catch(() => {}); // refused until the first click or key; autoplay tries again then
    });
    peer.addEventListener("connectionstatechange", () => {
      if (peer !== this.#peer) return;
      if (peer.connectionState === "connected") this.emit("state", track ? "connected" : "listening");
      else if (peer.connectionState === "failed") this.emit("state", "none");
    });
    this.emit("state", "connecting");
  }
}
