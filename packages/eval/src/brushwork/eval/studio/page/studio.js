/** The studio: what happens when somebody asks for a drawing, stops it, changes a part of it, or takes it home. */

import { download, get, goOn, post, remove, stay } from "./api.js";
import { anySeed, prepareForm, setBusy, setPrompt } from "./ask.js";
import { paint } from "./brush.js";
import { find } from "./dom.js";
import { openForm } from "./editing.js";
import { Gallery } from "./gallery.js";
import { Stage } from "./stage.js";
import { apply, letter, newVersion, partName } from "./versions.js";

const PATIENCE = 5000; // milliseconds that a stopped drawing has to end in

const stage = new Stage({ edit, again, carryOn, exportAs, putAway });
const gallery = new Gallery(drawFromGallery, complain);
const spent = new Map(); // drawing → what it has cost so far, over all of its versions
let about = null;
let current = null; // {version, abort, ended}: what is drawn now
let named = 0;

/** Lets a drawing go on into a version; true where the model has begun, false where it was refused (and said so). */
async function run(version, body, { isNew = true } = {}) {
  while (current) await stop(); // and nothing is awaited until there is a new one, or two would run
  version.asked = body;
  const abort = new AbortController();
  const { promise: begun, resolve: begin } = Promise.withResolvers();
  const ended = follow(version, body, abort.signal, () => {
    if (isNew && !version.name) {
      version.name = letter(named++);
      stage.add(version);
    }
    begin(true);
  }).then(() => begin(false));
  current = { version, abort, ended };
  setBusy(true);
  ended.then(() => {
    current = null;
    setBusy(false);
  });
  return begun;
}

async function follow(version, body, signal, onBegun) {
  try {
    for await (const event of goOn(version.drawing, body, signal)) {
      apply(version, event);
      if (event.type === "error") complain(event);
      if (["wrote", "sketched", "placed", "done"].includes(event.type)) onBegun();
      if (event.type === "placed") tell(version, event);
      stage.update(version);
    }
    if (version.state === "running") throw new Error("The drawing broke off. What was finished is still here.");
  } catch (error) {
    apply(version, { type: "error", message: error.name === "AbortError" ? "stopped" : error.message });
    if (error.name !== "AbortError") complain(error);
  }
  spent.set(version.drawing, version.total);
  stage.update(version);
}

async function stop() {
  if (!current) return;
  const { version, abort, ended } = current;
  const late = setTimeout(() => abort.abort(), PATIENCE);
  await post(`/api/drawings/${version.drawing}/stop`).catch(() => abort.abort());
  await ended;
  clearTimeout(late);
}

async function draw({ prompt, seed, settings }) {
  quiet();
  await attempt(async () => {
    await stop();
    const { id } = await post("/api/drawings", { prompt, seed, settings });
    const how = settings.strategy === "process" ? "" : `${settings.strategy.replaceAll("_", " ")}, `;
    const version = newVersion({ drawing: id, prompt, why: `${how}seed ${seed}` });
    const begun = await run(version, { keep: null, edit: null, seed: null });
    if (!begun) await remove(`/api/drawings/${id}`).catch(() => {}); // why it was refused has been said
  });
}

/** A version that leaves another before one of its parts. */
function leave(version, part, why, edited) {
  const kept = version.parts.slice(0, part);
  const marks = [...version.marks].filter((index) => index < part);
  return newVersion({
    drawing: version.drawing, prompt: version.prompt, why: `from ${version.name}: ${why}`, kept, marks,
    edited: edited ? part : null, spent: spent.get(version.drawing),
  });
}

/** The server's number for a version; one that never began has the parts of the version that it leaves. */
const from = (version) => ({ of: version.number ?? version.asked.of });

async function edit(version, part, slot) {
  const label = partName(version.parts, part);
  const go = async (change) => {
    quiet();
    await stop(); // first: what it costs until then belongs to the version that is left
    const branch = leave(version, part, `${label.slice(4)} changed`, true);
    return goOnInto(branch, { ...from(version), keep: part, edit: change, seed: null });
  };
  if (slot.kind !== "image") {
    openForm(slot, version.parts[part], label, go);
    return;
  }
  const png = await paint(version.parts[part].image, label, about.limits);
  if (png !== null) await go({ kind: "image", png });
}

/** Runs a new version and, once it has begun, leaves the keyboard at its tab. */
async function goOnInto(branch, body) {
  const begun = await run(branch, body);
  if (begun) stage.tab(branch.name)?.focus();
  return begun;
}

async function again(version, part) {
  quiet();
  await stop();
  const seed = anySeed();
  const branch = leave(version, part, `again from ${partName(version.parts, part)}`, false);
  await goOnInto(branch, { ...from(version), keep: part, edit: null, seed });
}

async function carryOn(version) {
  quiet();
  await stop();
  const since = spent.get(version.drawing) ?? version.total; // what other versions have cost meanwhile is theirs
  for (const term of Object.keys(version.spent))
    version.spent = { ...version.spent, [term]: version.spent[term] + since[term] - version.total[term] };
  const further = { ...from(version), keep: version.parts.length, edit: null, seed: null };
  await run(version, version.number === null ? version.asked : further, { isNew: false });
}

async function exportAs(version, file) {
  const words = version.prompt.toLowerCase().match(/[a-z0-9]+/g) ?? ["drawing"];
  const name = words.join("-").slice(0, 40);
  const ending = file.split(".").at(-1);
  const path = `/api/drawings/${version.drawing}/export/${file}?version=${version.number}`;
  await attempt(() => download(path, `${name}-${version.name}.${ending}`));
}

async function putAway(version) {
  if (current?.version === version) await stop();
  stage.remove(version);
  if (stage.versions.every((one) => one.drawing !== version.drawing))
    await attempt(() => remove(`/api/drawings/${version.drawing}`));
}

function drawFromGallery(prompt) {
  enter("draw");
  setPrompt(prompt);
}

function enter(room) {
  for (const name of ["draw", "gallery"]) {
    find(name).hidden = name !== room;
    find(`room-${name}`).setAttribute("aria-pressed", String(name === room));
  }
  if (room === "gallery") gallery.enter();
}

async function attempt(job) {
  try {
    await job();
  } catch (error) {
    complain(error);
  }
}

function complain(error) {
  find("alert").querySelector("p").textContent = error.message;
  find("alert").hidden = false;
}

function quiet() {
  find("alert").hidden = true;
}

/** Says for those who hear the page what has just been finished. */
function tell(version, event) {
  const what = partName(version.parts, event.part);
  const words = {
    plan: () => event.plans.map((plan) => plan.instruction).join("; "),
    inspection: () => event.refine || "accepted",
    image: () => "finished",
  };
  find("told").textContent = `${what}: ${words[event.kind]()}`;
}

async function open() {
  find("alert").querySelector("button").addEventListener("click", quiet);
  for (const room of ["draw", "gallery"]) find(`room-${room}`).addEventListener("click", () => enter(room));
  find("stop").addEventListener("click", stop);
  await attempt(async () => {
    about = await get("/api/about");
    prepareForm(about, draw);
    const [height, width] = about.image_size;
    const name = `${about.model} · ${width} × ${height}`;
    const say = (words, lost) => {
      if (find("presence").textContent !== words) find("presence").textContent = words; // or it would be read out again
      find("presence").classList.toggle("lost", lost);
    };
    const onQueue = (queue) => {
      const waiting = Math.max(0, queue - (current ? 1 : 0)); // one's own is no news
      say(waiting ? `${name} · ${waiting} in the queue` : name, false);
    };
    const onLost = (error) => {
      say(error.message, true);
    };
    onQueue(0);
    stay(onQueue, onLost);
  });
}

open();
