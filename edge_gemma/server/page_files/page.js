// The page: one conversation over /v1/realtime. Text of others is only ever set as text.

const $ = (id) => document.getElementById(id);
const LANGUAGES = ["", "ar", "cs", "da", "de", "el", "en", "es", "fi", "fr", "hi", "hu", "id", "it", "ja", "ko", "nl", "no",
  "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh"];
const PARTIALS = "item.input_audio_transcription.partials";
const MOST_PICTURE = 1400;  // pixels of its longer side
const MOST_ROUNDS = 6;      // of tool calls in one answer

// ---- settings ----

const DEFAULTS = {
  instructions: "You are a helpful assistant. Answer briefly and in plain words.",
  language: "", speak: true, tools: true, most: 1024, theme: "auto", key: "", handsFree: false,
};
let about = { name: "edge_gemma", hears: false, sees: false, speaks: false, key: false };
let settings = { ...DEFAULTS };

function load() {
  try {
    settings = { ...DEFAULTS, ...about.defaults, ...JSON.parse(localStorage.getItem("edge_gemma") || "{}") };
  } catch {
    settings = { ...DEFAULTS, ...about.defaults };
  }
}

function save() {
  try { localStorage.setItem("edge_gemma", JSON.stringify(settings)); } catch { /* a private window */ }
}

const darkness = matchMedia("(prefers-color-scheme: dark)");
function show_theme() {
  const dark = settings.theme === "dark" || (settings.theme === "auto" && darkness.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}
darkness.addEventListener("change", show_theme);

// ---- tools that run in this page ----

const timers = new Map();
const OWN_TOOLS = [
  {
    name: "get_current_time", description: "Tells the date and the time.",
    parameters: { type: "object", properties: {} },
    run: () => ({ now: new Date().toLocaleString(undefined, { dateStyle: "full", timeStyle: "short" }) }),
  },
  {
    name: "set_timer", description: "Starts a timer, which the page tells of when it has ended.",
    parameters: {
      type: "object",
      properties: { seconds: { type: "number", minimum: 1, maximum: 86400 }, name: { type: "string" } },
      required: ["seconds"],
    },
    run: ({ seconds, name }) => {
      const label = name || `${seconds} seconds`;
      timers.set(label, setTimeout(() => { timers.delete(label); notice(`The timer is over: ${label}`); chime(); }, 1000 * seconds));
      return { result: "started", name: label };
    },
  },
];

function tools() {
  if (!settings.tools) return [];
  return (about.tools || OWN_TOOLS).map(({ name, description, parameters }) =>
    ({ type: "function", name, description, parameters }));
}

function run_tool(name, text) {
  try {
    const tool = about.tools ? null : OWN_TOOLS.find((one) => one.name === name);
    if (!tool) return about.tools ? "done" : { error: `There is no tool ${name}.` };
    return tool.run(JSON.parse(text || "{}"));
  } catch (error) {
    return { error: String(error.message || error) };
  }
}

// ---- what is shown ----

const bubbles = new Map();  // by the id of an item
let following = true;

$("log").addEventListener("scroll", () => {
  const log = $("log");
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
});

function follow() {
  if (following) $("log").scrollTop = $("log").scrollHeight;
}

function bubble(mine, id) {
  $("welcome").hidden = true;
  const row = document.createElement("div");
  row.className = `message ${mine ? "mine" : "theirs"}`;
  const inner = document.createElement("div");
  inner.className = "bubble";
  row.append(inner);
  $("log").append(row);
  if (id) bubbles.set(id, inner);
  following = following || mine;
  follow();
  return inner;
}

function words(element, certain, guess = "") {
  const parts = [...element.querySelectorAll("img")];
  const sure = document.createElement("span");
  sure.textContent = certain;
  const rest = document.createElement("span");
  rest.className = "guess";
  rest.textContent = guess;
  element.replaceChildren(...parts, sure, rest);
  follow();
}

function show_call(name, text, result) {
  $("welcome").hidden = true;
  const details = document.createElement("details");
  details.className = "call";
  const summary = document.createElement("summary");
  const given = Object.entries(JSON.parse(text || "{}")).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
  summary.textContent = `${name}(${given})`;
  const pre = document.createElement("pre");
  pre.textContent = typeof result === "string" ? result : JSON.stringify(result, null, 2);
  details.append(summary, pre);
  $("log").append(details);
  follow();
}

let hiding = 0;
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { $("notice").hidden = true; }, 7000);
}

function state(kind, text) {
  $("state").dataset.state = kind;
  $("state").textContent = text;
}

// ---- the connection ----

let socket = null, ready = false, answering = null, rounds = 0, retry = 1000, rate = 24000;
let history = [];   // what a new connection is told
let live = null;    // the bubble of what is being said
let queue = [];     // events that wait for the session
const held = new Set();  // bubbles of what was said while the button was held, whose words are to come

function connect() {
  state("off", "connecting");
  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/realtime`;
  const protocols = ["realtime", ...(settings.key ? [`openai-insecure-api-key.${settings.key}`] : [])];
  try { socket = new WebSocket(url, protocols); } catch { state("off", "not connected"); return; }
  const mine = socket;
  socket.onmessage = ({ data }) => { if (mine === socket) take(JSON.parse(data)); };
  socket.onclose = () => {
    if (mine !== socket) return;
    ready = false;
    end_answer();
    release();
    state("off", "not connected");
    if (about.key && !settings.key) { notice("This server wants a key: see the settings."); return; }
    setTimeout(connect, retry);
    retry = Math.min(2 * retry, 15000);
  };
}

function tell(event) {
  if (ready && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(event));
  else queue.push(event);
}

function configure() {
  const hands_free = settings.handsFree;
  const transcription = { model: about.name, ...(settings.language ? { language: settings.language } : {}) };
  const session = {
    type: "realtime",
    instructions: settings.instructions,
    output_modalities: [about.speaks && settings.speak ? "audio" : "text"],
    tools: tools(),
    max_output_tokens: settings.most,
    include: [PARTIALS],
    audio: {
      input: {
        format: { type: "audio/pcm", rate },
        transcription,
        turn_detection: hands_free ? { type: "server_vad", silence_duration_ms: 600 } : null,
      },
    },
  };
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "session.update", session }));
}

function take(event) {
  const handler = HANDLERS[event.type];
  if (handler) handler(event);
}

const HANDLERS = {
  "session.created": () => configure(),
  "session.updated": () => {
    if (!ready) {
      ready = true;
      retry = 1000;
      for (const item of history) socket.send(JSON.stringify({ type: "conversation.item.create", item }));
      for (const event of queue.splice(0)) socket.send(JSON.stringify(event));
    }
    if (holding) state("live", "listening");
    else state("ready", "ready");
  },
  "input_audio_buffer.speech_started": (event) => { silence(); live = bubble(true, event.item_id); live.classList.add("waiting"); state("live", "listening"); },
  "input_audio_buffer.speech_stopped": () => state("ready", "ready"),
  "input_audio_buffer.committed": (event) => { if (live) bubbles.set(event.item_id, live); },
  "conversation.item.input_audio_transcription.partial": (event) => {
    const element = bubbles.get(event.item_id) || live;
    if (element) { element.classList.remove("waiting"); words(element, event.agreed, event.text.slice(event.agreed.length)); }
  },
  "conversation.item.input_audio_transcription.completed": (event) => {
    const element = bubbles.get(event.item_id);
    if (element === live) live = null;
    if (!element) return;
    element.classList.remove("waiting");
    const asked = held.delete(element);
    if (event.transcript) {
      words(element, event.transcript);
      remember("user", event.transcript);
      rounds = 0;
      if (asked) tell({ type: "response.create" });
    } else { element.parentElement.remove(); tell({ type: "conversation.item.delete", item_id: event.item_id }); }
  },
  "conversation.item.input_audio_transcription.failed": (event) => notice(event.error.message),
  "response.created": (event) => { answering = event.response.id; $("stop").hidden = false; $("send").hidden = true; },
  "response.content_part.added": (event) => { bubble(false, event.item_id).classList.add("waiting"); },
  "response.output_text.delta": (event) => add(event),
  "response.output_audio_transcript.delta": (event) => add(event),
  "response.output_audio.delta": (event) => play(event.delta, event.item_id),
  "response.done": (event) => {
    end_answer();
    const { output, status, status_details: details } = event.response;
    for (const element of bubbles.values()) element.classList.remove("waiting");
    if (status === "failed") notice(details.error.message);
    let called = false;
    for (const item of output) {
      if (item.type === "message") remember("assistant", item.content.map((part) => part.text || part.transcript || "").join(""));
      if (item.type !== "function_call" || status !== "completed") continue;
      called = true;
      const result = run_tool(item.name, item.arguments);
      show_call(item.name, item.arguments, result);
      const output_text = typeof result === "string" ? result : JSON.stringify(result);
      tell({ type: "conversation.item.create", item: { type: "function_call_output", call_id: item.call_id, output: output_text } });
    }
    if (called && ++rounds < MOST_ROUNDS) tell({ type: "response.create" });
  },
  "error": (event) => {
    if (event.error.code === "input_audio_buffer_commit_empty") {  // a touch, and not a word
      live?.parentElement.remove();
      held.delete(live);
      live = null;
    } else if (event.error.code !== "response_cancel_not_active") {
      notice(event.error.message);
    }
  },
};

function add(event) {
  const element = bubbles.get(event.item_id);
  if (!element) return;
  element.classList.remove("waiting");
  words(element, (element.textContent || "") + event.delta);
}

function remember(role, text) {
  if (text) history.push({ type: "message", role, content: [{ type: role === "user" ? "input_text" : "output_text", text }] });
  history = history.slice(-40);
}

function end_answer() {
  answering = null;
  $("stop").hidden = true;
  $("send").hidden = false;
}

function interrupt() {
  silence();
  if (answering) tell({ type: "response.cancel" });
}

// ---- text and pictures ----

let picture = null;

async function prepared(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(1, MOST_PICTURE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}

async function attach(file) {
  try {
    picture = await prepared(file);
  } catch {
    notice("This picture cannot be read.");
    return;
  }
  const image = document.createElement("img");
  image.src = picture;
  image.alt = "The attached picture";
  const remove = document.createElement("button");
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", "Remove the picture");
  remove.onclick = detach;
  $("attached").replaceChildren(image, remove);
  $("attached").hidden = false;
}

function detach() {
  picture = null;
  $("attached").hidden = true;
  $("attached").replaceChildren();
  $("file").value = "";
}

function send(text) {
  const content = [];
  if (picture) content.push({ type: "input_image", image_url: picture, detail: "auto" });
  if (text) content.push({ type: "input_text", text });
  if (!content.length) return;
  interrupt();
  const element = bubble(true);
  if (picture) {
    const image = document.createElement("img");
    image.src = picture;
    image.alt = "A picture";
    element.append(image);
  }
  words(element, text);
  detach();
  remember("user", text);
  rounds = 0;
  tell({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  tell({ type: "response.create" });
}

function grow() {
  const box = $("text");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("text").value.trim());
  $("text").value = "";
  grow();
});
$("text").addEventListener("input", grow);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("composer").requestSubmit(); }
});
$("text").addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file && about.sees) { event.preventDefault(); attach(file); }
});
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) attach($("file").files[0]); });
$("stop").addEventListener("click", interrupt);
$("new").addEventListener("click", () => {
  interrupt();
  history = [];
  bubbles.clear();
  $("log").replaceChildren($("welcome"));
  $("welcome").hidden = false;
  const old = socket;
  socket = null;
  ready = false;
  old?.close();
  connect();
});

// ---- the microphone ----

let context = null, microphone = null, holding = false;

async function open_microphone() {
  if (microphone) return true;
  if (!navigator.mediaDevices?.getUserMedia) {
    notice("Browsers give a page the microphone only over https, or from this machine itself.");
    return false;
  }
  try {
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    context ||= new AudioContext();
    await context.resume();
    await context.audioWorklet.addModule("/page/recorder.js");
    const source = context.createMediaStreamSource(stream), recorder = new AudioWorkletNode(context, "recorder");
    source.connect(recorder);
    recorder.port.onmessage = ({ data }) => heard(data);
    microphone = { stream, source, recorder };
    rate = context.sampleRate;
    if (rate > 48000) { notice("The microphone has a rate that is not supported."); close_microphone(); return false; }
    configure();
    return true;
  } catch (error) {
    notice(error.name === "NotAllowedError" ? "The microphone was not allowed." : "There is no microphone.");
    return false;
  }
}

function close_microphone() {
  if (!microphone) return;
  for (const track of microphone.stream.getTracks()) track.stop();
  microphone.source.disconnect();
  microphone = null;
}

function heard(buffer) {
  if (!ready || !(holding || settings.handsFree)) return;
  const bytes = new Uint8Array(buffer);
  socket.send(JSON.stringify({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...bytes)) }));
}

async function press() {
  if (settings.handsFree || holding) return;
  holding = true;
  $("talk").setAttribute("aria-pressed", "true");
  $("talk-text").textContent = "Listening …";
  interrupt();
  if (!(await open_microphone())) { release(false); return; }
  if (!holding) return;
  state("live", "listening");
  live = bubble(true);
  live.classList.add("waiting");
}

function release(commit = true) {
  if (!holding) return;
  holding = false;
  $("talk").setAttribute("aria-pressed", "false");
  $("talk-text").textContent = "Hold to talk";
  if (ready) state("ready", "ready");
  if (!commit || !live || !ready) { live?.parentElement.remove(); live = null; return; }
  held.add(live);
  setTimeout(() => tell({ type: "input_audio_buffer.commit" }), 60);  // the last piece of sound is still on its way
}

async function hands_free(on) {
  settings.handsFree = on;
  $("hands-free").checked = on;
  $("talk").disabled = on;
  $("talk-text").textContent = on ? "Just talk" : "Hold to talk";
  if (on && !(await open_microphone())) { hands_free(false); return; }
  if (!on) close_microphone();
  $("talk").setAttribute("aria-pressed", String(on));
  configure();
}

$("talk").addEventListener("pointerdown", (event) => { event.preventDefault(); $("talk").setPointerCapture(event.pointerId); press(); });
for (const name of ["pointerup", "pointercancel"]) $("talk").addEventListener(name, () => release());
$("talk").addEventListener("contextmenu", (event) => event.preventDefault());
for (const [name, call] of [["keydown", press], ["keyup", release]]) {
  $("talk").addEventListener(name, (event) => {
    if ((event.key === " " || event.key === "Enter") && !event.repeat) { event.preventDefault(); call(); }
  });
}
$("hands-free").addEventListener("change", () => hands_free($("hands-free").checked));

// ---- speech of the server ----

let playing = [], until = 0, began = 0, spoken_item = null;

function play(text, item) {
  context ||= new AudioContext();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const samples = new Int16Array(bytes.buffer);
  const buffer = context.createBuffer(1, samples.length, 24000);
  buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  if (item !== spoken_item || until < context.currentTime) {
    until = Math.max(context.currentTime + 0.05, until);
    if (item !== spoken_item) began = until;
    spoken_item = item;
  }
  source.start(until);
  until += buffer.duration;
  playing.push(source);
  source.onended = () => { playing = playing.filter((one) => one !== source); };
}

function silence() {
  if (!playing.length) return;
  for (const source of playing) { source.onended = null; source.stop(); }
  playing = [];
  const heard_until = Math.max(0, Math.round(1000 * (context.currentTime - began)));
  until = 0;
  if (!answering) tell({ type: "conversation.item.truncate", item_id: spoken_item, content_index: 0, audio_end_ms: heard_until });
}

function chime() {
  context ||= new AudioContext();
  const tone = context.createOscillator(), gain = context.createGain();
  gain.gain.setValueAtTime(0.2, context.currentTime);
  gain.gain.exponentialRampToValueAtTime(0.001, context.currentTime + 0.8);
  tone.connect(gain).connect(context.destination);
  tone.start();
  tone.stop(context.currentTime + 0.8);
}

// ---- the dialog of settings ----

function fill() {
  for (const id of ["instructions", "language", "theme", "key", "most"]) $(id).value = settings[id];
  for (const id of ["speak", "tools"]) $(id).checked = settings[id];
}

$("open-settings").addEventListener("click", () => { fill(); $("settings").showModal(); });
$("settings").addEventListener("close", () => {
  if ($("settings").returnValue !== "save") return;
  const key = settings.key;
  for (const id of ["instructions", "language", "theme", "key"]) settings[id] = $(id).value;
  for (const id of ["speak", "tools"]) settings[id] = $(id).checked;
  settings.most = Math.max(16, Math.min(8192, Number($("most").value) || DEFAULTS.most));
  save();
  show_theme();
  if (settings.key !== key || !ready) { const old = socket; socket = null; ready = false; old?.close(); connect(); }
  else configure();
});

// ---- the beginning ----

async function begin() {
  const names = new Intl.DisplayNames([navigator.language, "en"], { type: "language" });
  for (const code of LANGUAGES) $("language").append(new Option(code ? names.of(code) : "Any", code));
  for (let wait = 500; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const answer = await fetch("/page/about.json");
      if (answer.ok) { about = await answer.json(); break; }
      state("off", "the model is being loaded");
    } catch {
      state("off", "not connected");
    }
    await new Promise((done) => setTimeout(done, wait));
  }
  load();
  settings.handsFree = false;
  show_theme();
  $("name").textContent = about.name;
  document.title = about.name;
  $("voice").hidden = !about.hears;
  $("attach").hidden = !about.sees;
  $("speak-line").hidden = !about.speaks;
  $("key-line").hidden = !about.key;
  if (!about.hears) $("hint").textContent = "Write something.";
  connect();
}

load();
show_theme();
begin();
