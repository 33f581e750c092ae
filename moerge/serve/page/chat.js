"use strict";
// The conversation: what is asked of the server, what it streams, and where it is shown and kept.

const $ = id => document.getElementById(id);
const TALK = "moerge.talk", SETTINGS = "moerge.settings", KEY = "moerge.key";
const KEPT_ROUTING = 2e6;  // characters; browsers keep 5 million or so for a page
const GONE = "The server does not answer. Is moerge serve still running?";
const SAMPLING = [  // key, label, step, least, most
  ["temperature", "Temperature", "any", 0], ["top_k", "Top k", 1, 0], ["top_p", "Top p", "any", 0, 1],
  ["min_p", "Min p", "any", 0, 1], ["repeat_penalty", "Repeat penalty", "any", 0],
  ["max_tokens", "Longest answer (tokens)", 1, -1], ["seed", "Seed", 1, 0, 4294967295]];

let info = null;     // of /v1/moerge
let talk = [];       // messages: {role, content}, of an answer also what is described in ask()
let shown = [];      // for each message its elements, see show()
let running = null;  // the AbortController of the answer that is coming
let settings = { system: "", sampling: {}, theme: "auto" };

// ---------------------------------------------------------------------------------------------------- what is kept

function load(store, key) {
  try { return JSON.parse(store.getItem(key)); } catch { return null; }
}

function write(key, value) {
  try { localStorage.setItem(key, value); return true; } catch { return false; }
}

function keepSettings() { write(SETTINGS, JSON.stringify(settings)); }

function keepTalk() {
  const whole = JSON.stringify(talk);
  const bare = () => JSON.stringify(talk.map(({ role, content, reasoning, end }) => ({ role, content, reasoning, end })));
  if (whole.length > KEPT_ROUTING || !write(TALK, whole)) write(TALK, bare());
}

// What an import or an earlier version left: only what has the right form.
function understood(message) {
  if (!message || !["user", "assistant"].includes(message.role) || typeof message.content !== "string") return null;
  const out = { role: message.role, content: message.content };
  if (typeof message.reasoning === "string") out.reasoning = message.reasoning;
  if (typeof message.end === "string") out.end = message.end;
  const pieces = message.pieces, rows = message.routing;
  if (out.role === "assistant" && Array.isArray(pieces) && Array.isArray(rows) &&
      pieces.every(piece => Array.isArray(piece) && typeof piece[0] === "string") && rows.every(row => !row || isRouting(row)))
    Object.assign(out, { pieces, routing: rows });
  return out;
}

const isRouting = row => Array.isArray(row.experts) && Array.isArray(row.weights) && row.experts.length === row.weights.length &&
  row.experts.every((chosen, layer) => Array.isArray(chosen) && Array.isArray(row.weights[layer]) &&
    chosen.every((expert, k) => Number.isInteger(expert) && expert >= 0 && Number.isFinite(row.weights[layer][k])));

// ---------------------------------------------------------------------------------------------------- the server

async function call(path, body, signal) {
  const headers = {}, key = load(sessionStorage, KEY);
  if (key) headers.Authorization = "Bearer " + key;
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal,
      cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
}

async function complaint(response) {
  let said;
  try { said = (await response.json()).error; } catch { /* not JSON */ }
  return new Error(`${(said && (said.message || said)) || response.statusText || "The server refused"} (${response.status})`);
}

// The values of "data:" lines.
async function* events(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    let part;
    try { part = await reader.read(); } catch (error) {
      if (error.name === "AbortError") throw error;
      return;
    }
    if (part.done) return;
    const lines = (rest + decoder.decode(part.value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

function askKey() {
  const dialog = $("key-dialog");
  return new Promise(resolve => {
    dialog.onclose = () => resolve(dialog.returnValue === "given");
    $("key-form").onsubmit = event => {
      event.preventDefault();
      try { sessionStorage.setItem(KEY, JSON.stringify($("key").value.trim())); } catch { /* asked again next time */ }
      $("key").value = "";
      dialog.close("given");
    };
    $("key-cancel").onclick = () => dialog.close("");
    if (!dialog.open) { dialog.returnValue = ""; dialog.showModal(); }
  });
}

async function meet() {
  const again = (text, seconds) => { facts(text); setTimeout(meet, seconds * 1000); };
  let response;
  try {
    response = await call("v1/moerge");
    if (response.status === 503) return again("The model is loading\u2026", 1);
    if (response.status === 401) {
      if (await askKey()) return meet();
      facts("");
      return complain("This server wants an API key.", "Enter it", meet);
    }
    if (!response.ok) return complain((await complaint(response)).message, "Try again", meet);
    info = await response.json();
  } catch {
    return again(GONE, 2);
  }
  $("name").textContent = info.name;
  document.title = info.name + " - moerge";
  facts(`${info.context} tokens of context` +
    (info.experts ? `, ${info.experts} experts, ${info.experts_per_token} for each token` : ""));
  for (const text of [info.template_note || (info.chat_template ? "" :
    "This model has no chat template: it continues the text of the messages, one below the other.")])
    if (text) $("talk").prepend(el("p", { className: "note", id: "template-note", textContent: text }));
  for (const [name] of SAMPLING) {
    const value = (info.sampling || {})[name];
    $("s-" + name).placeholder = name === "seed" ? "random" : name === "max_tokens" && value < 0 ? "no limit" :
      Number.isFinite(value) ? Number(value.toFixed(4)) : "";
  }
  for (const title of document.querySelectorAll(".assistant h2")) title.textContent = info.name;
  $("send").disabled = false;
  setUpExperts();
}

function facts(text) { $("facts").textContent = text; }

// ---------------------------------------------------------------------------------------------------- messages

function show(message) {
  const view = { message, drawn: 0, coloured: 0, spans: [], growing: null, thought: null };
  view.body = el("div", { className: "body" });
  view.foot = el("div", { className: "foot" });
  const mine = message.role === "user";
  if (mine) view.foot.append(button("Edit", () => edit(view), { className: "quiet only-last edits" }));
  view.foot.append(button("Copy", event => copy(message.content, event.target), { className: "quiet" }));
  if (!mine) {
    view.foot.append(button("Regenerate", () => again(), { className: "quiet only-last again" }));
    view.end = view.foot.appendChild(el("span", { className: "soft end" }));
  }
  view.article = el("article", { className: "message " + message.role },
    el("h2", { textContent: mine ? "You" : (info && info.name) || "Answer" }), view.body, view.foot);
  $("talk").append(view.article);
  shown.push(view);
  draw(message, view, true);
  mark();
  return view;
}

// Which messages can be changed.
function mark() {
  for (const role of ["user", "assistant"]) {
    const last = shown.findLast(view => view.message.role === role);
    for (const view of shown) if (view.message.role === role)
      view.article.classList.toggle("last", view === last && !running && (role === "user" || view === shown.at(-1)));
  }
}

function clear() {
  shown = [];
  hideDetail();
  $("talk").replaceChildren(...[$("template-note")].filter(Boolean));
}

function showAll() {
  clear();
  for (const message of talk) show(message);
  legend();
  bottom(true);
}

const inExperts = message => coloursWanted() && message.routing && settings.view !== "formatted";

// Brings a message's elements up to date: what has come since the last time, or everything.
function draw(message, view, all) {
  const box = view.body;
  if (message.role === "user") { box.textContent = message.content; return; }
  if (all) {
    box.replaceChildren();
    Object.assign(view, { drawn: 0, coloured: 0, spans: [], growing: null, thought: null, tokens: null });
  }
  if (message.reasoning && !view.thought) {
    view.thought = el("div", { className: "plain" });
    box.prepend(el("details", { className: "thought", open: view === shown.at(-1) && !!running && !message.content },
      el("summary", { textContent: "Thought" }), view.thought));
  }
  if (inExperts(message)) drawTokens(message, view);
  else {
    if (view.thought && view.thought.textContent !== message.reasoning) view.thought.textContent = message.reasoning;
    if (!view.growing) view.growing = new Growing(box.appendChild(el("div", { className: "md" })));
    view.growing.set(message.content);
  }
  if (message.content && running && view === shown.at(-1) && view.thought && view.thought.parentNode.open && !view.closed) {
    view.closed = true;
    view.thought.parentNode.open = false;
  }
  if (view.end.textContent !== (message.end || "")) view.end.textContent = message.end || "";
}

// Once for each frame, however many pieces have come.
let frame = 0;
function drawSoon(message, view) {
  frame ||= requestAnimationFrame(() => { frame = 0; drawNow(message, view); });
}

function drawNow(message, view) {
  const follow = atBottom();
  draw(message, view, false);
  if (message.routing) legend();
  bottom(follow);
}

const atBottom = () => $("talk").scrollHeight - $("talk").scrollTop - $("talk").clientHeight < 60;
function bottom(wanted) { if (wanted) $("talk").scrollTop = $("talk").scrollHeight; }

function complain(text, label, action) {
  removeComplaints();
  $("talk").append(el("p", { className: "note bad", role: "alert" }, text,
    ...(label ? [button(label, () => { removeComplaints(); action(); })] : [])));
  bottom(true);
}
function removeComplaints() { for (const note of document.querySelectorAll(".note.bad")) note.remove(); }

async function copy(text, where) {
  let done = false;
  try { await navigator.clipboard.writeText(text); done = true; } catch {  // only for https and this computer
    const area = document.body.appendChild(el("textarea", { value: text, className: "unseen" }));
    area.select();
    done = document.execCommand("copy");
    area.remove();
    where.focus();
  }
  where.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => where.textContent = "Copy", 1500);
}

// Tells a screen reader whole lines while they come, and the rest at the end.
const speech = {
  told: 0,
  begin() { this.told = 0; $("say").replaceChildren(); },
  tell(text, end) {
    const to = end ? text.length : text.lastIndexOf("\n") + 1;
    if (to <= this.told) return;
    $("say").append(el("div", { textContent: text.slice(this.told, to) }));
    this.told = to;
  },
};

// ---------------------------------------------------------------------------------------------------- asking

function request() {
  const messages = talk.filter(message => message.content).map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  return { messages, stream: true, stream_options: { include_usage: true }, routing: coloursWanted(),
    ...settings.sampling };
}

// Asks for an answer to the conversation so far. An answer holds its text, how it ended, and with the routing
// pieces: [text, tokens answered with it, 1 if it is a thought], routing: by token {experts, weights}.
async function ask() {
  if (running || !info) return;
  removeComplaints();
  const body = request(), message = { role: "assistant", content: "", reasoning: "" };
  if (body.routing) Object.assign(message, { pieces: [], routing: [] });
  running = new AbortController();
  talk.push(message);
  const view = show(message), stop = running;
  let tokens = 0, first = 0, finish = null, done = false, times = null, failure = null;
  message.end = "waiting\u2026";
  busy(true);
  bottom(true);
  drawSoon(message, view);
  speech.begin();
  try {
    let response = await call("v1/chat/completions", body, stop.signal);
    while (response.status === 401 && await askKey()) response = await call("v1/chat/completions", body, stop.signal);
    if (!response.ok) throw await complaint(response);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") { done = true; continue; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message || String(chunk.error));
      times = chunk.timings || times;
      const choice = (chunk.choices || [])[0] || {}, delta = choice.delta || {};
      const text = delta.content || "", thought = delta.reasoning_content || "";
      finish = choice.finish_reason || finish;
      const told = chunk.moerge;
      if (text || thought) tokens = told ? told.tokens : tokens + 1;
      first ||= tokens && performance.now();
      message.content += text;
      message.reasoning += thought;
      if (message.pieces) {
        if (thought) message.pieces.push([thought, tokens, 1]);
        if (text) message.pieces.push([text, tokens]);
        for (const { index, experts, weights } of (told && told.routing) || [])
          if (Number.isInteger(index) && index >= 0 && isRouting({ experts, weights }))
            message.routing[index] = { experts, weights };
      }
      const seconds = (performance.now() - first) / 1000;
      if (tokens)
        message.end = `${tokens} tokens` +
          (tokens > 1 && seconds > .3 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "");
      speech.tell(message.content, false);
      drawSoon(message, view);
    }
    if (!done && !finish) failure = "The answer broke off: the server closed the connection.";
  } catch (error) {
    if (error.name !== "AbortError") failure = error.message;
  }
  const n = (times && times.predicted_n) ?? tokens;
  const speed = times ? times.predicted_per_second : (tokens - 1) / ((performance.now() - first) / 1000);
  message.end = `${n} tokens` + (n > 1 && Number.isFinite(speed) ? `, ${speed.toFixed(1)} tokens/s` : "") +
    (times && times.prompt_n ? `; prompt ${times.prompt_n} tokens, ${(times.prompt_per_second || 0).toFixed(0)} tokens/s` : "") +
    (stop.signal.aborted ? "; stopped" : failure ? "; broken off" : finish === "length" ? "; cut off at the longest length" : "");
  running = null;
  cancelAnimationFrame(frame);
  frame = 0;
  if (!message.content && !message.reasoning && (failure || stop.signal.aborted)) {
    talk.pop();
    shown.pop().article.remove();
  } else {
    const follow = atBottom();
    draw(message, view, !inExperts(message));  // a formatted text as a whole: what was kept while it grew can be wrong
    bottom(follow);
  }
  speech.tell(message.content, true);
  busy(false);
  legend();
  if (failure) complain(failure, "Try again", again);
  keepTalk();
}

function busy(on) {
  $("stop").hidden = !on;
  $("send").hidden = on;
  for (const id of ["new", "import"]) $(id).disabled = on;
  $("talk").setAttribute("aria-busy", on);
  mark();
}

function send(text) {
  if (running || !info || !text.trim()) return false;
  talk.push({ role: "user", content: text });
  show(talk.at(-1));
  keepTalk();
  ask();
  return true;
}

// Cuts the conversation before a message.
function cut(at) {
  talk.length = at;
  hideDetail();
  for (const view of shown.splice(at)) view.article.remove();
}

function again() {
  if (running) return;
  if (talk.length && talk.at(-1).role === "assistant") cut(talk.length - 1);
  if (talk.length) ask();
}

function edit(view) {
  if (running || view.article.querySelector(".edit")) return;
  const area = el("textarea", { value: view.message.content, ariaLabel: "Message" });
  const close = () => { box.remove(); view.body.hidden = view.foot.hidden = false; };
  const go = () => {
    if (running || !info || !area.value.trim()) return;
    cut(shown.indexOf(view));
    send(area.value);
    $("text").focus();
  };
  const box = el("div", { className: "edit" }, area, el("div", { className: "buttons" },
    button("Send", go, { className: "main" }), button("Cancel", close)));
  area.onkeydown = event => {
    if (enters(event)) { event.preventDefault(); go(); }
    if (event.key === "Escape") close();
  };
  view.body.hidden = view.foot.hidden = true;
  view.article.append(box);
  area.focus();
}

const enters = event => event.key === "Enter" && !event.shiftKey && !event.isComposing;

// ---------------------------------------------------------------------------------------------------- the page

function exportTalk() {
  const messages = talk.map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  const url = URL.createObjectURL(new Blob([JSON.stringify({ messages }, null, 2) + "\n"], { type: "application/json" }));
  el("a", { href: url, download: "chat.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function importTalk(file) {
  let messages;
  try { messages = JSON.parse(await file.text()).messages; } catch { /* said below */ }
  const right = Array.isArray(messages) && messages.every(one => one && typeof one.content === "string" &&
    ["system", "user", "assistant"].includes(one.role));
  if (!right) return complain('This is no chat: expected {"messages": [{"role": "user", "content": "..."}, ...]}.');
  removeComplaints();
  settings.system = messages.filter(one => one.role === "system").map(one => one.content).join("\n");
  talk = messages.map(understood).filter(Boolean);
  fillSettings();
  showAll();
  keepSettings();
  keepTalk();
}

function fillSettings() {
  $("system").value = settings.system;
  for (const [name] of SAMPLING) $("s-" + name).value = settings.sampling[name] ?? "";
  document.documentElement.dataset.theme = settings.theme;
  $("theme").textContent = `Theme: ${settings.theme}`;
}

function toggleSettings(open) {
  $("settings").hidden = !open;
  $("open-settings").setAttribute("aria-expanded", open);
  $(open ? "system" : "open-settings").focus();
}

function fitText() {
  $("text").style.height = "auto";
  $("text").style.height = $("text").scrollHeight + 2 + "px";
}

function setUp() {
  const kept = load(localStorage, SETTINGS) || {};
  if (typeof kept.system === "string") settings.system = kept.system;
  if (["light", "dark"].includes(kept.theme)) settings.theme = kept.theme;
  if (typeof kept.colours === "boolean") settings.colours = kept.colours;
  if (["experts", "formatted"].includes(kept.view)) settings.view = kept.view;
  for (const [name, label, step, min, max = ""] of SAMPLING) {
    const value = (kept.sampling || {})[name];
    if (Number.isFinite(value)) settings.sampling[name] = value;
    const input = el("input", { type: "number", id: "s-" + name, step, min, max });
    input.oninput = () => {
      if (input.value !== "" && input.validity.valid) settings.sampling[name] = Number(input.value);
      else delete settings.sampling[name];
      keepSettings();
    };
    $("sampling").append(el("label", { className: "row" }, label, input));
  }
  const messages = load(localStorage, TALK);
  if (Array.isArray(messages)) talk = messages.map(understood).filter(Boolean);
  fillSettings();
  showAll();

  $("write").onsubmit = event => {
    event.preventDefault();
    if (send($("text").value)) { $("text").value = ""; fitText(); }
  };
  $("text").oninput = fitText;
  $("text").onkeydown = event => { if (enters(event)) { event.preventDefault(); $("write").requestSubmit(); } };
  const halt = () => { if (running) running.abort(); $("text").focus(); };
  $("stop").onclick = halt;
  $("new").onclick = () => { talk = []; showAll(); keepTalk(); $("text").focus(); };
  $("theme").onclick = () => {
    settings.theme = { auto: "light", light: "dark", dark: "auto" }[settings.theme];
    fillSettings();
    keepSettings();
  };
  $("open-settings").onclick = () => toggleSettings($("settings").hidden);
  $("close-settings").onclick = () => toggleSettings(false);
  $("system").oninput = () => { settings.system = $("system").value; keepSettings(); };
  $("reset").onclick = () => { settings.sampling = {}; fillSettings(); keepSettings(); };
  $("export").onclick = exportTalk;
  $("import").onclick = () => $("file").click();
  $("file").onchange = async () => {
    if ($("file").files[0]) await importTalk($("file").files[0]);
    $("file").value = "";
  };
  document.addEventListener("keydown", event => {
    if (event.key !== "Escape" || event.defaultPrevented || $("key-dialog").open) return;
    if (!$("detail").hidden) hideDetail();
    else if (running) halt();
    else if (!$("settings").hidden) toggleSettings(false);
  });
  window.addEventListener("pagehide", keepTalk);
  followTokens();
  $("text").focus();
  meet();
}

setUp();
