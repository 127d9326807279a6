// The chat's page. It holds nothing of its own: what it shows is what the program tells it over a
// WebSocket, the whole of it at each new start and then every change, and what is typed here goes
// there. Everything that others wrote enters the page as text, never as markup.

const MOST_ENTRIES = 1000;
const FIRST_PAUSE = 500; // milliseconds, before another attempt to connect; then twice that
const LONGEST_PAUSE = 5000;

const MARKS = {
  sent: "sent",
  delivered: "delivered",
  unconfirmed: "unconfirmed: their program cannot tell",
  lost: "lost: it did not arrive",
  received: "",
  plain: "came unencrypted",
};

const TALKING = new Set(["direct", "gone"]);

const byId = (id) => document.getElementById(id);
const log = byId("log");
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

let socket = null;
let pause = FIRST_PAUSE;
let status = null;
let renaming = false;
let unread = 0;
let lastSaid = "";
let following = true; // the end of the conversation is in sight, and shall stay so

// --- the program at the other end -------------------------------------------------------------

function connect() {
  const url = new URL("live", location.href);
  url.protocol = "ws:";
  socket = new WebSocket(url);
  socket.onmessage = (event) => heard(JSON.parse(event.data));
  socket.onclose = lost;
}

function heard(message) {
  if ("log" in message) {
    pause = FIRST_PAUSE;
    say(byId("trouble"), "");
  }
  if (message.status) showStatus(message.status);
  if ("log" in message) showWhole(message.log);
  if ("entry" in message) showEntry(message.entry);
  if ("cleared" in message) log.replaceChildren();
  if ("refused" in message) showRefusal(message.do, message.refused);
  if (status) arrange();
}

async function lost() {
  socket = null;
  document.body.dataset.state = "lost";
  say(byId("state-text"), "Out of touch with udppunch.");
  setTimeout(connect, pause);
  pause = Math.min(2 * pause, LONGEST_PAUSE);
  let answer = null;
  try {
    answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
  } catch {
    // There is nobody to answer.
  }
  if (socket !== null && socket.readyState === WebSocket.OPEN) return;
  say(
    byId("trouble"),
    answer !== null && answer.status === 403
      ? "udppunch was started anew. Open the link that it shows in its terminal."
      : "udppunch does not answer. It may have ended; this page keeps trying to reach it.",
  );
}

// Whether it was sent: there may be nobody to send to.
function ask(command) {
  if (socket === null || socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(command));
  return true;
}

// --- the status -------------------------------------------------------------------------------

// Letters of a name that turn the direction of writing turn no more than the name.
const isolated = (text) => `\u2068${text}\u2069`;
const nameOf = (peer) => (peer && peer.name ? isolated(peer.name) : "your peer");

function describe({ state, server, reason, peer }) {
  const them = nameOf(peer);
  const words = {
    unnamed: "Say who you are to begin.",
    registering: `Registering at ${server}…`,
    ready: "Ready for a peer.",
    establishing: `Asking ${server} for ${them}…`,
    punching: `Punching: looking for a direct path to ${them}…`,
    direct: `Direct: you are connected with ${them}.`,
    gone: `Gone: ${them} does not answer. Still trying…`,
    failed: "Failed.",
  }[state];
  if (state === "failed" && reason) return `Failed: ${reason}`;
  return reason ? `${words} ${reason}` : words;
}

function showStatus(now) {
  const before = status;
  const peer = now.peer;
  status = now;
  document.body.dataset.state = now.state;
  say(byId("state-text"), describe(now));
  say(byId("own-name"), now.name);
  say(byId("own-id"), now.id);
  say(byId("own-fingerprint"), now.fingerprint);
  say(byId("peer-name"), peer ? peer.name : "");
  say(byId("shown-peer-id"), peer ? peer.id : "");
  say(byId("peer-fingerprint"), peer ? peer.fingerprint : "");
  say(byId("peer-address"), peer ? peer.address : "");
  byId("text").placeholder = peer ? `Write to ${nameOf(peer)}` : "";
  if (before === null || before.name !== now.name) renaming = false;
  if (!peer || now.state === "failed") fold(false);
  else if (now.state === "direct" && (before === null || !TALKING.has(before.state))) fold(true);
  if (peer && !(before && before.peer)) say(byId("copied"), "");
  arrange();
  if (before === null) nextField().focus();
}

// Shows what fits the status. Who is in a field that goes is led to the next one.
function arrange() {
  const unnamed = status.state === "unnamed";
  const peer = status.peer;
  const focused = document.activeElement;
  show("details", peer);
  show("name-form", unnamed || renaming);
  show("named", !unnamed && !renaming);
  show("identity", status.id);
  show("peer-section", !unnamed);
  show("peer-form", !peer || status.state === "failed");
  show("peer", peer);
  show("peer-name", peer && peer.name);
  show("peer-proof", peer && peer.fingerprint);
  show("peer-place", peer && peer.address);
  show("reset", peer || log.firstChild);
  show("talk-form", peer || log.firstChild);
  say(byId("empty"), peer ? "Nothing has been said yet." : "Here you will talk with your peer.");
  const gone = focused && focused !== document.body && focused.getClientRects().length === 0;
  if (gone) nextField().focus();
  const title = peer && peer.name ? `${peer.name} – udppunch chat` : "udppunch chat";
  document.title = unread ? `(${unread}) ${title}` : title;
}

function nextField() {
  if (!byId("name-form").hidden) return byId("name");
  return byId("peer-form").hidden ? byId("text") : byId("peer-id");
}

// Where it is narrow the people give way to the conversation, unless they are asked for.
function fold(folded) {
  const details = byId("details");
  details.setAttribute("aria-expanded", String(!folded));
  document.body.classList.toggle("folded", folded);
}

// --- the conversation -------------------------------------------------------------------------

// What is shown already stays as it is, so that nothing is read out twice after an interruption.
function showWhole(entries) {
  const wanted = new Map(entries.map((entry) => [entry.key, entry]));
  for (const item of [...log.children]) {
    const entry = wanted.get(item.dataset.key);
    if (entry === undefined || signature(entry) !== item.dataset.signature) item.remove();
  }
  let next = log.firstChild;
  for (const entry of entries) {
    if (next !== null && next.dataset.key === entry.key) {
      renew(next, entry);
      next = next.nextSibling;
    } else {
      log.insertBefore(renew(make(entry), entry), next);
    }
  }
  toBottom();
}

function showEntry(entry) {
  const known = find(entry.key);
  const item = renew(known || make(entry), entry);
  if (known) return;
  const followed = atEnd();
  log.append(item);
  if (log.children.length > MOST_ENTRIES) log.firstChild.remove();
  if (followed || entry.mine) toBottom();
  else byId("below").hidden = false;
  if (!entry.mine && document.hidden) unread += 1;
}

function find(key) {
  return log.querySelector(`[data-key="${CSS.escape(key)}"]`);
}

function signature(entry) {
  return JSON.stringify([entry.at, entry.mine, entry.text, entry.notice]);
}

function make(entry) {
  const item = document.createElement("div");
  item.dataset.key = entry.key;
  item.dataset.signature = signature(entry);
  if ("notice" in entry) {
    item.className = "notice";
    item.textContent = entry.notice;
    return item;
  }
  item.className = entry.mine ? "mine" : "theirs";
  const who = entry.mine ? "You" : nameOf(status && status.peer);
  const time = part("time", "", clock.format(entry.at * 1000));
  time.title = new Date(entry.at * 1000).toLocaleString();
  time.dateTime = new Date(entry.at * 1000).toISOString();
  const meta = part("div", "meta");
  meta.append(time, part("span", "mark"));
  const text = part("div", "text", entry.text);
  text.dir = "auto";
  item.append(part("span", "unseen", `${who}: `), text, meta);
  return item;
}

function part(kind, className, text = "") {
  const element = document.createElement(kind);
  element.className = className;
  element.textContent = text;
  return element;
}

// Of an entry that is shown, its mark alone may change.
function renew(item, entry) {
  if (!("mark" in entry) || item.dataset.mark === entry.mark) return item;
  const words = MARKS[entry.mark];
  item.dataset.mark = entry.mark;
  item.querySelector(".mark").textContent = words ? ` · ${words}` : "";
  if (entry.mark === "lost" && item.parentNode) say(byId("spoken"), `Not delivered: ${entry.text}`);
  return item;
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function toBottom() {
  log.scrollTop = log.scrollHeight;
  byId("below").hidden = true;
}

// --- what people do ---------------------------------------------------------------------------

const NOT_SENT = "udppunch does not answer; nothing was sent.";
const FIELDS = { rename: "name", connect: "peer-id", say: "text" };

function onSubmit(form, act) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

function submit(command) {
  complain(command.do, ask(command) ? "" : NOT_SENT);
}

function showRefusal(command, why) {
  const text = byId("text");
  if (command === "say" && text.value === "") text.value = lastSaid;
  complain(command, why);
}

// Beside the field that it is about; what has none is said where everybody looks.
function complain(command, why) {
  const id = FIELDS[command];
  if (id === undefined) {
    say(byId("trouble"), why);
    return;
  }
  const field = byId(id);
  field.setAttribute("aria-invalid", String(why !== ""));
  say(byId(id === "peer-id" ? "peer-error" : `${id}-error`), why);
  if (why && !field.closest("[hidden]")) field.focus();
}

onSubmit("name-form", () => {
  const name = byId("name").value.trim();
  if (status && renaming && name === status.name) stopRenaming();
  else submit({ do: "rename", name });
});

onSubmit("peer-form", () => submit({ do: "connect", id: byId("peer-id").value.trim() }));

onSubmit("talk-form", () => {
  const field = byId("text");
  const text = field.value;
  if (text.trim() === "") return;
  submit({ do: "say", text });
  if (field.getAttribute("aria-invalid") === "true") return;
  lastSaid = text;
  field.value = "";
});

// A field of one line would join the lines that are pasted into it without a space.
byId("text").addEventListener("paste", (event) => {
  const pasted = event.clipboardData.getData("text/plain");
  if (!/[\r\n]/.test(pasted)) return;
  event.preventDefault();
  const field = event.target;
  const line = pasted.trim().replace(/\s*[\r\n]+\s*/g, " ");
  field.setRangeText(line, field.selectionStart, field.selectionEnd, "end");
});

byId("rename").addEventListener("click", () => {
  renaming = true;
  byId("name").value = status.name;
  arrange();
  byId("name").select();
});

function stopRenaming() {
  renaming = false;
  complain("rename", "");
  arrange();
  byId("rename").focus();
}

byId("name-form").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && renaming) stopRenaming();
});

byId("copy").addEventListener("click", async () => {
  const copied = await copy(byId("own-id"));
  say(byId("copied"), copied ? "Copied." : "It is selected: copy it with Ctrl+C.");
});

// The clipboard is for pages of this computer or over TLS alone; a selection is for all.
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

byId("reset").addEventListener("click", () => {
  const leaving = status.peer ? `You leave ${nameOf(status.peer)}, and all` : "All";
  say(byId("sure-text"),
    `${leaving} that was said is forgotten, in every tab. Your name and your id stay.`);
  byId("sure").showModal();
});
byId("keep").addEventListener("click", () => byId("sure").close());
byId("forget").addEventListener("click", () => {
  byId("sure").close();
  submit({ do: "reset" });
});

byId("details").addEventListener("click", () => {
  fold(byId("details").getAttribute("aria-expanded") === "true");
});
byId("below").addEventListener("click", toBottom);
log.addEventListener("scroll", () => {
  following = atEnd();
  if (following) byId("below").hidden = true;
});
new ResizeObserver(() => {
  if (following) toBottom();
}).observe(log);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) unread = 0;
  if (status) arrange();
});

// --- small things -----------------------------------------------------------------------------

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  if (element.id === "trouble") element.hidden = text === "";
}

function show(id, wanted) {
  byId(id).hidden = !wanted;
}

connect();
