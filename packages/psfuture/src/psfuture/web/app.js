// The page: what is typed goes to a sentence, what comes back is drawn. Text is set as text, always.

import { ask, Sentence } from "./sentence.js";

const LOWEST = 0.0005;
const HIGHEST = 0.5;
const TICKS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3];
const ROWS = 9;
const EARLIER = 20;
// White space as the server sees it.
const SPACE = /[\s\x1c-\x1f\x85]+/u;
const LANES = ["psfuture", "wait-k"];
const LARGEST_K = 9;

const byId = (id) => document.getElementById(id);
const typing = byId("typing");
const slider = byId("threshold");

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A word in its own direction, which the words around it don't feel. */
const makeWord = (className, text) => make("bdi", `word ${className}`, text);

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
const round = (value) =>
  value > 0 && value < LOWEST / 5 ? value.toExponential(0) : Number(value.toPrecision(2)).toString();

/** Where a divergence lies on the axis, from 0 to 1. */
function place(value) {
  const at = Math.log(value / LOWEST) / Math.log(HIGHEST / LOWEST);
  return Math.min(Math.max(at, 0), 1);
}

const sliderValue = () =>
  Number((LOWEST * (HIGHEST / LOWEST) ** (slider.value / slider.max)).toPrecision(3));

let about = {};
let settings = {};
let shown = null; // the sentence on the stage

/** A sentence and what is drawn of it: a column a source word, a row a policy. */
class Score {
  constructor() {
    this.cells = [];
    this.lanes = Object.fromEntries(
      LANES.map((name) => [name, { reads: 0, words: [], begun: "", decisions: [] }]),
    );
    this.element = make("ol", "cells");
    this.sentence = new Sentence(settings, (message) => this.draw(message), complain);
  }

  push(word) {
    const cell = this.addCell(makeWord("source", word));
    cell.classList.add("arrived");
    this.sentence.push(word);
  }

  finish() {
    this.end = this.addCell(make("span", "word source end", "end"));
    this.sentence.finish();
  }

  addCell(word) {
    const cell = make("li", "cell");
    const source = make("div", "source");
    source.append(word, make("small", "time"));
    cell.append(source, ...LANES.map((name) => make("div", `lane ${name}`)));
    this.cells.push(cell);
    this.element.append(cell);
    return cell;
  }

  draw(message) {
    const lane = this.lanes[message.lane];
    lane.last = message;
    for (const event of message.events) {
      const cell = message.done && event.kind === "write" ? this.end : this.cells[event.reads - 1];
      if (event.kind === "read") {
        cell.classList.replace("arrived", "read");
        cell.querySelector(".time").textContent = `${event.reads} · ${seconds(event.ms)}`;
        cell.querySelector(`.lane.${message.lane}`).classList.add("passed");
        continue;
      }
      lane.words.push(event.text);
      const written = make("span", "written");
      written.append(
        makeWord("target", event.text),
        make("small", "time", `${event.reads} · ${seconds(event.ms)}`),
      );
      written.title = `written when ${event.reads} words had been read, after ${seconds(event.ms)}`;
      cell.querySelector(`.lane.${message.lane}`).append(written);
    }
    lane.begunElement?.remove();
    if (message.begun && !message.done) {
      lane.begunElement = makeWord("begun", message.begun);
      this.cells[message.reads - 1].querySelector(`.lane.${message.lane}`).append(lane.begunElement);
    }
    lane.begun = message.done ? "" : message.begun;
    for (const decision of message.decisions) {
      if (decision.divergence === null) continue;
      const [newest] = lane.decisions;
      const again =
        newest && !newest.wrote && newest.reads === decision.reads &&
        newest.divergence === decision.divergence;
      lane.decisions.splice(0, again ? 1 : 0, decision);
      lane.decisions.length = Math.min(lane.decisions.length, ROWS);
    }
    if (this === shown) this.show();
    this.earlier?.replaceChildren(...this.lines());
  }

  /** The panels below the score. */
  show() {
    for (const name of LANES) {
      const { last, words, begun } = this.lanes[name];
      const text = byId(`${name}-text`);
      text.replaceChildren(makeWord("", words.join(" ")));
      if (begun) text.append(" ", makeWord("begun", begun));
      byId(`${name}-behind`).textContent = last && !last.done ? last.behind : "–";
      byId(`${name}-al`).textContent = typeof last?.al === "number" ? last.al.toFixed(1) : "–";
      byId(`${name}-counts`).textContent = last ? `${last.reads} · ${words.length}` : "–";
    }
    byId("decisions").replaceChildren(...this.lanes.psfuture.decisions.map(decisionRow));
  }

  lines() {
    const source = make("p", "source");
    source.append(makeWord("", this.sentence.words.join(" ")));
    const targets = LANES.map((name) => {
      const { last, words } = this.lanes[name];
      const line = make("p", name);
      const al = typeof last?.al === "number" ? ` · AL ${last.al.toFixed(1)}` : "";
      line.append(makeWord("", words.join(" ")), make("small", "time", `${last?.policy ?? name}${al}`));
      return line;
    });
    return [source, ...targets];
  }

  /** Becomes a few lines of the list below; what is still to come is drawn there. */
  retire() {
    this.earlier = make("li");
    this.earlier.append(...this.lines());
    byId("earlier").prepend(this.earlier);
    while (byId("earlier").children.length > EARLIER) byId("earlier").lastElementChild.remove();
    document.querySelector(".earlier").hidden = false;
  }

  get trace() {
    const lane = (name) => {
      const messages = this.sentence.messages.filter((message) => message.lane === name);
      return {
        policy: this.lanes[name].last?.policy ?? null,
        words: this.lanes[name].words,
        al: this.lanes[name].last?.al ?? null,
        events: messages.flatMap(({ events }) => events),
        decisions: messages.flatMap(({ decisions }) => decisions),
      };
    };
    return {
      ...about,
      ...this.sentence.settings,
      source: this.sentence.words,
      finished: this.sentence.finished,
      lanes: Object.fromEntries(LANES.map((name) => [name, lane(name)])),
    };
  }
}

function decisionRow(decision) {
  const far = place(decision.divergence) > 0.85 ? " far" : "";
  const row = make("li", `decision ${decision.wrote ? "write" : "read"}${far}`);
  const token = make("span", "token");
  token.append(
    make("small", "", `${decision.reads}`),
    decision.text.trim() ? makeWord("", decision.text.trim()) : make("span", "word end", "end"),
  );
  const scale = make("div", "scale");
  const bar = make("div", "bar");
  bar.style.setProperty("--at", place(decision.divergence));
  const own = make("div", "own");
  own.style.setProperty("--at", place(decision.threshold));
  scale.append(bar, own, make("small", "value", round(decision.divergence)));
  scale.lastElementChild.style.setProperty("--at", place(decision.divergence));
  row.append(token, scale, make("span", "verdict", decision.wrote ? "WRITE" : "READ"));
  return row;
}

function complain(reason) {
  byId("error").textContent = reason;
  byId("error").hidden = false;
  stopReplay();
}

/** The sentence that words go to; a new one where the last is finished. */
function current() {
  if (shown && !shown.sentence.finished && !shown.sentence.over) return shown;
  byId("error").hidden = true;
  shown?.retire();
  shown = new Score();
  byId("stage").replaceChildren(shown.element);
  shown.show();
  return shown;
}

function push(word) {
  current().push(word);
  if (shown.sentence.words.length === about.words) finish();
}

function finish() {
  if (shown && shown.sentence.words.length && !shown.sentence.finished && !shown.sentence.over)
    shown.finish();
}

typing.addEventListener("input", (event) => {
  if (event.isComposing) return;
  const parts = typing.value.split(SPACE);
  const rest = parts.pop();
  for (const word of parts.filter(Boolean)) push(word);
  if (parts.length) typing.value = rest;
});

typing.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  const word = typing.value.trim();
  typing.value = "";
  if (word) push(word);
  finish();
});

let replaying = null;

function replay(words) {
  if (!words.length) {
    stopReplay();
    return;
  }
  const [{ word, last }, ...rest] = words;
  push(word);
  if (last) finish();
  if (shown.sentence.over && !shown.sentence.finished) return;
  replaying = setTimeout(() => replay(rest), 60000 / byId("speed").value);
}

function stopReplay() {
  clearTimeout(replaying);
  replaying = null;
  byId("play").disabled = typing.disabled = false;
  byId("stop").disabled = true;
}

byId("play").addEventListener("click", () => {
  const words = byId("pasted").value.split("\n").flatMap((line) => {
    const found = line.split(SPACE).filter(Boolean);
    return found.map((word, at) => ({
      word,
      last: at === found.length - 1 || /[.!?…][)\]"'”’»]*$/u.test(word),
    }));
  });
  if (!words.length) {
    byId("pasted").focus();
    return;
  }
  finish();
  byId("play").disabled = typing.disabled = true;
  byId("stop").disabled = false;
  replay(words);
});
byId("stop").addEventListener("click", stopReplay);
byId("speed").addEventListener("input", showSpeed);

function showSpeed() {
  byId("speed-value").textContent = `${byId("speed").value} words a minute`;
}

function change(changed) {
  Object.assign(settings, changed);
  showSettings();
  shown?.sentence.change(changed);
}

function showSettings() {
  const text = round(settings.threshold);
  byId("threshold-value").textContent = text;
  slider.setAttribute("aria-valuetext", `lambda ${text}`);
  for (const knob of document.querySelectorAll(".knob-psfuture")) knob.textContent = `λ ${text}`;
  document.querySelector(".knob-wait-k").textContent = settings.k;
  document.documentElement.style.setProperty("--lambda", place(settings.threshold));
  byId("k").value = settings.k;
}

slider.addEventListener("input", () => change({ threshold: sliderValue() }));
byId("k").addEventListener("change", () => change({ k: Number(byId("k").value) }));

byId("copy").addEventListener("click", async () => {
  const trace = JSON.stringify(shown?.trace ?? about, null, 1);
  byId("trace").hidden = true;
  try {
    await navigator.clipboard.writeText(trace);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("trace").value = trace;
    byId("trace").hidden = false;
    byId("trace").select();
    byId("copied").textContent = "The browser forbids copying: take it from here.";
  }
});

async function start() {
  about = await ask("GET", "api/about");
  byId("model").textContent = about.model;
  byId("policy").textContent = `${about.policy}, ${about.divergence} · wait-k beside it`;
  byId("future").textContent = about.future;
  for (let k = 1; k <= Math.max(LARGEST_K, about.k); k++) byId("k").append(new Option(k, k));
  for (const tick of TICKS) {
    const mark = make("small", "", tick);
    mark.style.setProperty("--at", place(tick));
    document.querySelector(".ticks").append(mark);
  }
  settings = { threshold: about.threshold, k: about.k };
  slider.value = Math.round(place(about.threshold) * slider.max);
  showSettings();
  showSpeed();
}

start().catch((error) => complain(error.message));
