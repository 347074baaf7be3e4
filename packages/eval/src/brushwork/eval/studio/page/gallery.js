/** Finished runs and the shards of data sets, a page at a time, and one trajectory of them in the timeline. */

import { get } from "./api.js";
import { find, make } from "./dom.js";
import { Timeline } from "./timeline.js";
import { newVersion } from "./versions.js";

const SIZE = 24;

export class Gallery {
  /**
   * @param {(prompt: string) => void} onDraw for "Draw this prompt"
   * @param {(error: Error) => void} onError
   */
  constructor(onDraw, onError) {
    this.root = find("gallery");
    this.onDraw = onDraw;
    this.onError = onError;
    this.name = null;
    this.number = null; // of trajectories; null until it is known
    this.page = 0;
    this.wanted = null; // what was asked for last
  }

  /** Called whenever the room is entered. */
  async enter() {
    if (this.name === null) await this.attempt("", (galleries) => this.list(galleries));
    else if (this.number === null) await this.turn(this.page); // it could not be had before
  }

  /** Asks for something, and shows it unless something else is wanted by then. */
  async attempt(path, show) {
    const wanted = (this.wanted = Symbol(path));
    this.root.setAttribute("aria-busy", "true");
    try {
      const answer = await get(`/api/gallery${path}`);
      if (this.wanted === wanted) show(answer);
    } catch (error) {
      if (this.wanted === wanted) this.onError(error);
    }
    if (this.wanted === wanted) this.root.removeAttribute("aria-busy");
  }

  list(galleries) {
    this.galleries = galleries;
    if (!this.galleries.length) {
      this.root.replaceChildren(
        make(
          "p",
          { class: "empty" },
          "There is nothing to browse yet: no runs and no data sets lie beside the studio's own folder.",
        ),
      );
      return;
    }
    this.choose(this.galleries[0].name);
  }

  /** Goes to another gallery; what can be chosen is there even where this one cannot be had. */
  choose(name) {
    Object.assign(this, { name, number: null, page: 0 });
    this.root.replaceChildren(this.bar());
    return this.turn(0);
  }

  turn(page) {
    const path = `/${encodeURIComponent(this.name)}?page=${page}&size=${SIZE}`;
    return this.attempt(path, (data) => this.show(page, data));
  }

  show(page, data) {
    Object.assign(this, { page, number: data.number });
    const items = data.items.map((item) => this.thumbnail(item));
    this.root.replaceChildren(
      this.bar(),
      make("ul", { class: "thumbnails", "aria-label": "Trajectories" }, ...items),
    );
    if (!items.length) this.root.append(make("p", { class: "empty" }, "Nothing is in this gallery yet."));
  }

  bar() {
    const options = this.galleries.map((one) =>
      make("option", { value: one.name, selected: one.name === this.name }, one.title),
    );
    const select = make("select", { "aria-label": "Gallery" }, ...options);
    select.addEventListener("change", () => this.choose(select.value));
    const number = this.number ?? 0;
    const pages = Math.max(1, Math.ceil(number / SIZE));
    const turn = (by, words) =>
      make(
        "button",
        {
          type: "button",
          disabled: this.page + by < 0 || this.page + by >= pages,
          click: () => this.turn(this.page + by),
        },
        words,
      );
    const where = `Page ${this.page + 1} of ${pages.toLocaleString("en")} · ${number.toLocaleString("en")} trajectories`;
    return make(
      "div",
      { class: "bar" },
      select,
      make("p", { class: "hint", role: "status" }, this.number === null ? "" : where),
      make("div", { class: "row" }, turn(-1, "Previous"), turn(1, "Next")),
    );
  }

  thumbnail(item) {
    const verdict = { true: "passed", false: "failed" }[String(item.passed)];
    return make(
      "li",
      {},
      make(
        "button",
        { type: "button", class: "thumbnail", click: () => this.fetch(item.index) },
        item.thumbnail
          ? make("img", { src: item.thumbnail, alt: "", loading: "lazy" })
          : make("span", { class: "no-picture" }),
        make("span", { class: "words" }, item.prompt),
        make(
          "span",
          { class: "hint" },
          `${item.images} ${item.images === 1 ? "picture" : "pictures"}`,
          verdict ? make("span", { class: `badge ${verdict}` }, verdict) : null,
        ),
      ),
    );
  }

  fetch(index) {
    return this.attempt(`/${encodeURIComponent(this.name)}/${index}`, (item) => this.open(item));
  }

  open(item) {
    const version = newVersion({ drawing: "", prompt: item.prompt, why: item.key, kept: item.parts });
    version.finished = item.meta?.finished !== false;
    const list = make("ol", { class: "timeline", "aria-label": "Rounds" });
    const back = make(
      "button",
      { type: "button", click: () => this.turn(this.page) },
      "Back to the list",
    );
    this.root.replaceChildren(
      make(
        "div",
        { class: "bar" },
        back,
        make("button", { type: "button", class: "primary", click: () => this.onDraw(item.prompt) }, "Draw this prompt"),
      ),
      make("h2", {}, item.prompt),
      make("p", { class: "hint" }, facts(item)),
      list,
    );
    new Timeline(list).show(version);
    back.focus();
  }
}

/** The key and what is plain in the meta, on one line. */
function facts(item) {
  const plain = Object.entries(item.meta ?? {}).filter(([, value]) =>
    ["string", "number", "boolean"].includes(typeof value),
  );
  return [item.key, ...plain.map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`)].join(" · ");
}
