// Sound between this page and an agent's browser: one peer connection, signalled through the twin, which reads nothing.
//
// Both ends say hello with a fresh random name and answer a hello that is no answer; the greater name offers. Messages:
// {hello, answer} | {description, to} | {candidate, to}, `to` being the name they are meant for.

export class Sound {
  #send; #stream; #audio;
  #name = crypto.randomUUID();
  #other = null;
  #peer = null;
  #work = Promise.resolve();

  constructor(send, stream, audio) {
    this.#send = send;
    this.#stream = stream;
    this.#audio = audio;
    send({ hello: this.#name, answer: false });
  }

  take(message) {
    this.#work = this.#work.then(() => this.#act(message)).catch((error) => console.info("sound:", error.message));
  }

  close() {
    this.#peer?.close();
    this.#peer = null;
    this.#name = "closed";
  }

  async #act(message) {
    if (this.#name === "closed" || !message) return;
    if (message.hello) {
      if (!message.answer) this.#send({ hello: this.#name, answer: true });
      if (message.hello === this.#other) return;
      this.#other = message.hello;
      this.#connect();
      if (this.#name > this.#other) await this.#describe();
    } else if (message.to === this.#name && this.#peer) {
      if (message.candidate) await this.#peer.addIceCandidate(message.candidate);
      if (message.description) {
        await this.#peer.setRemoteDescription(message.description);
        if (message.description.type === "offer") await this.#describe();
      }
    }
  }

  async #describe() {
    await this.#peer.setLocalDescription();
    this.#send({ description: this.#peer.localDescription.toJSON(), to: this.#other });
  }

  #connect() {
    this.#peer?.close();
    const peer = new RTCPeerConnection({ iceServers: [] });
    this.#peer = peer;
    for (const track of this.#stream?.getAudioTracks() ?? []) peer.addTrack(track, this.#stream);
    if (!this.#stream && this.#name > this.#other) peer.addTransceiver("audio", { direction: "recvonly" });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate && peer === this.#peer) this.#send({ candidate: candidate.toJSON(), to: this.#other });
    });
    peer.addEventListener("track", ({ track }) => {
      this.#audio.srcObject = new MediaStream([track]);
      this.#audio.play().catch(() => {}); // refused before the first click on the page; autoplay tries again
    });
  }
}
