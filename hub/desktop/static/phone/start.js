/**
 * Starts the phone of this page: <script type="module" src="/static/phone/start.js"></script>
 * with <meta name="hub-phone" content='{"scope": "the user's public id"}'> and <meta name="csrf-token" content="…">.
 */
import { bindBar } from "./bar.js";
import { Desk } from "./desk.js";

const config = JSON.parse(document.querySelector('meta[name="hub-phone"]')?.content || "{}");
const desk = new Desk(config);
bindBar(desk);
desk.start();

/** For the page's other scripts (keys, tests). */
globalThis.hubPhone = desk;
