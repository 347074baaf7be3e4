/** Two versions side by side, round by round, with what differs marked. */

import { make } from "./dom.js";
import { inspectionView, pictureView, planView, refinesView } from "./parts.js";
import { frameTitle, rounds, same, shownParts } from "./versions.js";

const SIDES = ["Left", "Right"];

/**
 * @param {object[]} versions all that can be chosen
 * @param {[object, object]} pair that are shown
 * @param {(side: number, version: object) => void} choose
 */
export function compareView(versions, pair, choose) {
  const frames = pair.map((version) => rounds(shownParts(version)));
  const rows = Array.from({ length: Math.max(...frames.map((list) => list.length)) }, (_, number) =>
    make("li", {}, ...SIDES.map((_, side) => cell(pair, frames, number, side))),
  );
  const heads = SIDES.map((name, side) => head(name, versions, pair[side], (version) => choose(side, version)));
  return make(
    "div",
    { class: "compare" },
    make("div", { class: "compare-heads" }, ...heads),
    make("ol", { "aria-label": "Rounds of both versions" }, ...rows),
  );
}

function head(name, versions, shown, onChange) {
  const options = versions.map((one) =>
    make("option", { value: one.name, selected: one === shown }, `${one.name} · ${one.why}`),
  );
  const select = make("select", { "aria-label": `${name} version` }, ...options);
  select.addEventListener("change", () => onChange(versions.find((one) => one.name === select.value)));
  const { images, denoise_steps: steps, text_tokens: tokens, seconds } = shown.cost;
  const cost = `${images} pictures, ${steps} steps, ${tokens} tokens written, ${seconds.toFixed(2)} s`;
  return make("div", {}, select, make("p", { class: "hint prompt" }, shown.prompt), make("p", { class: "hint" }, cost));
}

function cell(pair, frames, number, side) {
  const frame = frames[side][number];
  if (!frame) return make("div", { class: "half none" }, make("p", { class: "said none" }, "no further round"));
  const parts = shownParts(pair[side]);
  const other = frames[1 - side][number];
  const theirs = shownParts(pair[1 - side]);
  const differs = (name) => (other && same(parts[frame[name]], theirs[other[name]]) ? "" : " differs");
  const title = frameTitle(frame);
  const plan = frame.plan === null ? refinesView(parts[frame.refines]) : planView(parts[frame.plan]);
  const name = frame.plan === null ? "refines" : "plan";
  return make(
    "div",
    { class: "half" },
    make("h3", {}, title),
    make(
      "div",
      { class: `slot image${differs("picture")}` },
      ...(frame.picture === null ? [] : pictureView(parts[frame.picture], `${pair[side].name}, ${title}`).slice(0, 1)),
    ),
    make("div", { class: `slot plan${differs(name)}` }, ...plan),
    make(
      "div",
      { class: `slot inspection${differs("inspection")}` },
      ...(frame.inspection === null ? [] : inspectionView(parts[frame.inspection])),
    ),
  );
}
