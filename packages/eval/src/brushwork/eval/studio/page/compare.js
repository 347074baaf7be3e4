/** Two versions side by side, round by round, with what differs marked. */

import { make } from "./dom.js";
import { inspectionView, pictureView, planView, refinesView } from "./parts.js";
import { frameTitle, rounds, same, shownParts } from "./versions.js";

const SIDES = ["Left", "Right"];

/** The view, which can be kept up to date: what is chosen from stays in place, the rounds are made anew. */
export class Comparison {
  /**
   * @param {HTMLElement} root what it fills
   * @param {object[]} versions all that can be chosen
   * @param {[object, object]} pair that are shown first
   */
  constructor(root, versions, pair) {
    this.pair = pair;
    this.heads = SIDES.map((name, side) => this.head(`${name} version`, versions, side));
    this.rows = make("ol", { "aria-label": "Rounds of both versions" });
    const heads = make("div", { class: "compare-heads" }, ...this.heads.map((head) => head.root));
    root.replaceChildren(make("div", { class: "compare" }, heads, this.rows));
  }

  head(label, versions, side) {
    const options = versions.map((one) =>
      make("option", { value: one.name, selected: one === this.pair[side] }, `${one.name} · ${one.why}`),
    );
    const select = make("select", { "aria-label": label }, ...options);
    select.addEventListener("change", () => {
      this.pair[side] = versions.find((one) => one.name === select.value);
      this.show();
    });
    const prompt = make("p", { class: "hint prompt" });
    const cost = make("p", { class: "hint" });
    return { root: make("div", {}, select, prompt, cost), prompt, cost };
  }

  /** Shows both as they are now. */
  show() {
    const { pair } = this;
    this.heads.forEach((head, side) => {
      const { images, denoise_steps: steps, text_tokens: tokens, seconds } = pair[side].cost;
      head.prompt.textContent = pair[side].prompt;
      head.cost.textContent = `${images} pictures, ${steps} steps, ${tokens} tokens written, ${seconds.toFixed(2)} s`;
    });
    const frames = pair.map((version) => rounds(shownParts(version)));
    const rows = Array.from({ length: Math.max(...frames.map((list) => list.length)) }, (_, number) =>
      make("li", {}, ...SIDES.map((_, side) => cell(pair, frames, number, side))),
    );
    this.rows.replaceChildren(...rows);
  }
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
