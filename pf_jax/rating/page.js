"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const served = location.protocol.startsWith("http");
const element = (id) => document.getElementById(id);

// Order and sides by rater: pf_jax/rating/order.py has the same, number for number.

function fnv1a(text) {
  let value = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) {
    value = Math.imul(value ^ byte, 0x01000193) >>> 0;
  }
  return value;
}

function mulberry32(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return (value ^ (value >>> 14)) >>> 0;
  };
}

function shuffle(items, below) {
  for (let last = items.length - 1; last > 0; last--) {
    const other = below(last + 1);
    [items[last], items[other]] = [items[other], items[last]];
  }
}

function showings(rater) {
  const next = mulberry32(fnv1a(`${data.page}:${rater}`));
  const below = (bound) => Math.floor((next() * bound) / 2 ** 32);
  const flips = data.pairs.map(() => below(2) === 1);
  const items = data.items.map(([item, pair, isRepeat]) => ({ item, pair, isRepeat }));
  const repeats = items.filter((x) => x.isRepeat);
  const repeated = new Set(repeats.map((x) => x.pair));
  const firsts = items.filter((x) => repeated.has(x.pair) && !x.isRepeat);
  const others = items.filter((x) => !repeated.has(x.pair));
  shuffle(others, below);
  const half = Math.floor(others.length / 2);
  const early = [...firsts, ...others.slice(0, half)];
  const late = [...repeats, ...others.slice(half)];
  shuffle(early, below);
  shuffle(late, below);
  return [...early, ...late].map(({ item, pair, isRepeat }) => {
    const [first, second] = data.pairs[pair];
    const [left, right] = flips[pair] !== isRepeat ? [second, first] : [first, second];
    return { item, left, right };
  });
}

// What the browser keeps, by page and rater.

const storage = {
  isKept: true,
  get(name) {
    try {
      return JSON.parse(localStorage.getItem(`rating:${data.page}:${name}`));
    } catch {
      this.isKept = false;
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`rating:${data.page}:${name}`, JSON.stringify(value));
    } catch {
      this.isKept = false;
    }
    element("unkept").hidden = this.isKept;
  },
};

let rater = null;
let shown = [];
let position = 0;
let answers = {}; // choice by item
let sent = {}; // choice by item that the server has
let isSending = false;
const inMemory = {}; // answers and what the server has, by rater: a browser may keep nothing

const judgements = () =>
  shown
    .filter(({ item }) => item in answers)
    .map(({ item, left, right }) => ({ item, left, right, choice: answers[item] }));

const firstOpen = () => shown.findIndex(({ item }) => !(item in answers));

// Another tab of the same rater may have kept more since.
function restore() {
  if (!storage.isKept) return;
  const kept = storage.get(`by:${rater}`) ?? {};
  answers = { ...answers, ...kept.answers };
  sent = { ...sent, ...kept.sent };
}

function keep() {
  inMemory[rater] = { answers, sent };
  storage.set(`by:${rater}`, { answers, sent });
}

// Screens.

function show(name) {
  for (const id of ["start", "rate", "end"]) element(id).hidden = id !== name;
  element("finish").hidden = name === "start";
  stopNotes();
}

const given = () => new URLSearchParams(location.hash.slice(1)).get("rater");

function start() {
  rater = null;
  storage.set("rater", null);
  const bytes = crypto.getRandomValues(new Uint8Array(4));
  const made = [...bytes].map((x) => x.toString(16).padStart(2, "0")).join("");
  element("rater").value = given() ?? (data.raters.length ? "" : `r-${made}`);
  show("start");
  element("rater").focus();
}

function begin(name) {
  const isKnown = !data.raters.length || data.raters.includes(name);
  const isName = /^[A-Za-z0-9_.-]{1,40}$/.test(name);
  element("refusal").hidden = isKnown && isName;
  element("refusal").textContent = isName
    ? "This is not one of the codes."
    : "Take 1 to 40 letters, digits, or any of _ . -";
  if (!isKnown || !isName) return;
  rater = name;
  element("name").textContent = rater;
  shown = showings(rater);
  answers = { ...inMemory[rater]?.answers };
  sent = { ...inMemory[rater]?.sent };
  restore();
  storage.set("rater", rater);
  document.activeElement?.blur();
  goTo(firstOpen());
  send();
}

function goTo(place) {
  if (place < 0 || place >= shown.length) {
    show("end");
    document.body.dataset.item = "";
    report();
    return;
  }
  position = place;
  const { item, left, right } = shown[position];
  document.body.dataset.item = item;
  fill("left", left);
  fill("right", right);
  for (const button of document.querySelectorAll("[data-choice]")) {
    const isChosen = Number(button.dataset.choice) === answers[item];
    button.setAttribute("aria-pressed", String(isChosen));
  }
  element("back").disabled = position === 0;
  element("forward").disabled = !(item in answers);
  const count = Object.keys(answers).length;
  element("progress").max = shown.length;
  element("progress").value = count;
  element("count").textContent = `pair ${position + 1} of ${shown.length}`;
  show("rate");
  report();
}

function choose(choice) {
  restore();
  const isLast = firstOpen() < 0;
  answers[shown[position].item] = choice;
  keep();
  goTo(isLast ? position + 1 : firstOpen());
  send();
}

// One sample.

function fill(side, name) {
  const content = data.samples[name];
  const parts = [];
  if ("text" in content) {
    const text = document.createElement("pre");
    text.textContent = content.text;
    parts.push(text);
  }
  if ("picture" in content) {
    const picture = document.createElement("img");
    picture.alt = `the ${data.noun} on the ${side}`;
    picture.src = content.picture;
    picture.classList.toggle("pixels", Boolean(content.is_pixels));
    parts.push(picture);
  }
  if ("sound" in content) {
    const sound = document.createElement("audio");
    sound.controls = true;
    sound.src = content.sound;
    parts.push(sound);
  }
  if ("notes" in content) {
    const button = document.createElement("button");
    button.textContent = "Play";
    button.addEventListener("click", () => playNotes(content.notes));
    parts.push(button);
  }
  element(side).dataset.sample = name;
  element(side).replaceChildren(...parts);
}

function play(side) {
  element(side).querySelector("button")?.click();
  for (const sound of document.querySelectorAll("audio")) sound.pause();
  const sound = element(side).querySelector("audio");
  if (sound) {
    sound.currentTime = 0;
    sound.play().catch(() => {}); // Another key stops a sound before it has begun.
  }
}

let player = null;

function stopNotes() {
  player?.close();
  player = null;
}

function playNotes(notes) {
  stopNotes();
  player = new AudioContext();
  const volume = player.createGain();
  volume.gain.value = 0.08;
  volume.connect(player.destination);
  const now = player.currentTime + 0.05;
  for (const [pitch, start, end] of notes) {
    const tone = player.createOscillator();
    const envelope = player.createGain();
    tone.type = "triangle";
    tone.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
    envelope.gain.setValueAtTime(1, now + start);
    envelope.gain.exponentialRampToValueAtTime(0.05, now + end);
    tone.connect(envelope).connect(volume);
    tone.start(now + start);
    tone.stop(now + end);
  }
}

// The answers' ways out.

async function send() {
  if (!served || isSending) return;
  isSending = true;
  const by = rater;
  try {
    for (;;) {
      const open = judgements().find(({ item, choice }) => sent[item] !== choice);
      if (!open || rater !== by) break;
      const response = await fetch("/judgements", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ page: data.page, rater: by, ...open }),
      });
      if (!response.ok) throw new Error(await response.text());
      if (rater !== by) break;
      restore();
      sent[open.item] = open.choice;
      keep();
    }
    report();
  } catch (error) {
    report(error.message);
  } finally {
    isSending = false;
  }
  if (rater !== null && rater !== by) send();
}

function report(problem = "") {
  const all = judgements();
  const isSent = all.filter(({ item, choice }) => sent[item] === choice).length;
  element("status").textContent = served
    ? `${isSent} of ${all.length} answers are stored${problem ? ` (${problem})` : ""}`
    : `${all.length} of ${shown.length} answered; send the file back when you are done`;
}

function download() {
  restore();
  const time = new Date().toISOString();
  const content = { page: data.page, rater, time, judgements: judgements() };
  const link = document.createElement("a");
  const file = new Blob([`${JSON.stringify(content, null, 1)}\n`], {
    type: "application/json",
  });
  link.href = URL.createObjectURL(file);
  link.download = `judgements-${rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Keys and buttons.

function back() {
  if (!element("end").hidden) goTo(shown.length - 1);
  else if (position > 0) goTo(position - 1);
}

function forward() {
  if (!element("rate").hidden && shown[position].item in answers) goTo(position + 1);
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (rater === null || event.target.tagName === "AUDIO") return;
  const isRating = !element("rate").hidden;
  const actions = { ArrowLeft: back, ArrowRight: forward };
  if (isRating) {
    for (const choice of [1, 2, 3, 4]) actions[choice] = () => choose(choice);
    actions.a = () => play("left");
    actions.d = () => play("right");
  }
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
});

for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(Number(button.dataset.choice)));
}
element("back").addEventListener("click", back);
element("forward").addEventListener("click", forward);
element("review").addEventListener("click", back);
// What is being stored is this rater's: the next one begins behind it.
async function leave() {
  await send();
  while (isSending) await new Promise((resolve) => setTimeout(resolve, 50));
  start();
}

element("next").addEventListener("click", leave);
element("download").addEventListener("click", download);
element("who").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(element("rater").value.trim());
});

element("page").textContent = data.page.slice(0, 16);
window.addEventListener("hashchange", () => {
  if (given() && given() !== rater) leave();
});
const unfinished = storage.get("rater");
// A code in the address may be another person's.
if (unfinished && (given() ?? unfinished) === unfinished) begin(unfinished);
else start();
