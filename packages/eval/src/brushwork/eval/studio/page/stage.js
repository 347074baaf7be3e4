/** The drawing in the middle: a tab for each version, its state and cost, its rounds, or two versions side by side. */

import { Comparison } from "./compare.js";
import { find, make } from "./dom.js";
import { Timeline } from "./timeline.js";
import { apply, newVersion, running } from "./versions.js";

const TERMS = [
  ["text_tokens", "tokens written"],
  ["prefilled_tokens", "tokens prefilled"],
  ["denoise_steps", "denoising steps"],
  ["model_forwards", "model forwards"],
  ["images", "pictures"],
  ["seconds", "seconds"],
];
const PACE = { wrote: 90, sketched: 160, placed: 500, cost: 0 }; // milliseconds that a replay rests after an event

export class Stage {
  /** @param {object} actions `edit`, `again`, `carryOn`, `exportAs`, `putAway`: what its buttons do */
  constructor(actions) {
    this.actions = actions;
    this.versions = [];
    this.shown = null;
    this.compared = null; // a Comparison, while two versions are shown
    this.replaying = null;
    this.timeline = new Timeline(find("timeline"), actions);
    this.pending = false;
    find("replay").addEventListener("click", () => (this.replaying ? this.endReplay() : this.replay(this.shown)));
    find("compare").addEventListener("click", () => this.toggleComparison());
    find("close").addEventListener("click", () => actions.putAway(this.shown));
    for (const button of document.querySelectorAll("[data-export]")) {
      button.addEventListener("click", () => actions.exportAs(this.shown, button.dataset.export));
    }
  }

  add(version) {
    this.versions.push(version);
    this.select(version);
  }

  remove(version) {
    this.versions = this.versions.filter((one) => one !== version);
    this.select(this.versions.at(-1) ?? null);
  }

  select(version) {
    this.endReplay();
    this.compared = null;
    this.shown = version;
    this.draw();
  }

  /** Draws soon: many events that come at once are drawn together. */
  update(version) {
    if (this.pending || (version !== this.shown && !this.compared)) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    const version = this.shown;
    find("blank").hidden = version !== null;
    find("sheet").hidden = version === null;
    this.drawTabs();
    if (version === null) return;
    find("title").textContent = version.prompt;
    find("state").textContent = `${version.name} · ${version.why} · ${stateOf(version)}`;
    const over = version.state !== "running" && version.state !== "queued";
    const isKept = over && version.number !== null && version.parts.length > 0;
    find("compare").disabled = this.versions.length < 2;
    find("compare").setAttribute("aria-pressed", String(this.compared !== null));
    find("replay").disabled = !over || !version.events.length || this.compared !== null;
    find("replay").textContent = this.replaying ? "End the replay" : "Replay slowly";
    for (const button of document.querySelectorAll("[data-export]")) button.disabled = !isKept;
    find("timeline").hidden = this.compared !== null;
    find("comparison").hidden = this.compared === null;
    if (this.compared) {
      find("meter").replaceChildren();
      return this.compared.show();
    }
    this.drawMeter(this.replaying ?? version);
    this.timeline.actions = this.replaying ? null : this.actions;
    this.timeline.show(this.replaying ?? version, this.replaying ? null : this.ending(version));
  }

  drawTabs() {
    const tabs = find("versions");
    tabs.hidden = this.versions.length < 2;
    const shown = [...tabs.children].map((tab) => tab.dataset.version);
    if (String(shown) !== String(this.versions.map((version) => version.name))) this.renewTabs(tabs);
    for (const tab of tabs.children) tab.setAttribute("aria-pressed", String(tab.dataset.version === this.shown?.name));
  }

  /** Makes the tabs: only when there are others, since a button that is replaced while it is pressed is not clicked. */
  renewTabs(tabs) {
    const had = document.activeElement?.dataset?.version;
    tabs.replaceChildren(
      ...this.versions.map((version) =>
        make(
          "button",
          { type: "button", "data-version": version.name, click: () => this.select(version) },
          make("b", {}, version.name),
          make("span", {}, version.why),
        ),
      ),
    );
    if (had) this.tab(had)?.focus();
  }

  tab(name) {
    return [...find("versions").children].find((tab) => tab.dataset.version === name);
  }

  drawMeter(version) {
    const cost = running(version);
    const figures = TERMS.map(([term, words]) => {
      const value = term === "seconds" ? cost[term].toFixed(2) : Math.round(cost[term]).toLocaleString("en");
      return make("div", { "data-term": term }, make("dt", {}, words), make("dd", {}, value));
    });
    find("meter").replaceChildren(...figures);
  }

  /** What stands behind the last round: why there is no further one, and how to go on. */
  ending(version) {
    if (version.state !== "stopped" && version.state !== "failed") return null;
    const goOn = make(
      "button",
      { type: "button", class: "primary", click: () => this.actions.carryOn(version) },
      "Go on",
    );
    return make("div", { class: "stopped" }, make("p", {}, sentence(stateOf(version))), goOn);
  }

  toggleComparison() {
    this.endReplay();
    const others = this.versions.filter((one) => one !== this.shown);
    const pair = [others.at(-1), this.shown].sort((a, b) => this.order(a) - this.order(b));
    this.compared = this.compared ? null : new Comparison(find("comparison"), this.versions, pair);
    this.draw();
  }

  order(version) {
    return this.versions.indexOf(version);
  }

  async replay(version) {
    const copy = newVersion({ ...version, kept: version.parts.slice(0, version.shared) });
    copy.marks = version.marks;
    copy.state = "running";
    this.replaying = copy;
    this.draw();
    for (const event of version.events) {
      await new Promise((resolve) => setTimeout(resolve, PACE[event.type]));
      if (this.replaying !== copy) return;
      apply(copy, event);
      this.draw();
    }
    this.endReplay();
    this.draw();
  }

  endReplay() {
    if (!this.replaying) return;
    this.replaying = null;
    this.draw();
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".");

function stateOf(version) {
  if (version.state === "queued") return version.ahead ? `waiting, ${version.ahead} ahead` : "waiting";
  if (version.state === "running") return "drawing";
  if (version.state === "failed") return version.message;
  if (version.state === "stopped" && version.message && version.message !== "stopped") {
    return `ended without an answer: ${version.message.replaceAll("_", " ")}`;
  }
  return version.state === "stopped" ? "stopped" : "finished";
}
