/** The rounds of a version as cards in order, each with what was planned, the picture, and what was said of it. */

import { iconButton, make } from "./dom.js";
import { inspectionView, pictureView, planView, refinesView } from "./parts.js";
import { frameTitle, rounds, shownParts } from "./versions.js";

/**
 * Cards that are kept up to date. What has not changed is left alone, so that a form that is open in a card stays open.
 */
export class Timeline {
  /**
   * @param {HTMLElement} list the `ol` that it fills
   * @param {{edit: Function, again: Function}|null} actions what the buttons of a part do: `(version, part, slot)`;
   *   null for a timeline that is only looked at
   */
  constructor(list, actions = null) {
    this.list = list;
    this.actions = actions;
    this.version = null;
    this.cards = [];
  }

  /** Shows a version as it is now; `ending` is an element behind its last round, or null. */
  show(version, ending = null) {
    if (version !== this.version) this.clear();
    this.version = version;
    const parts = shownParts(version);
    const frames = rounds(parts);
    while (this.cards.length > frames.length) this.cards.pop().root.remove();
    frames.forEach((frame, number) => {
      this.cards[number] ??= this.add();
      this.fill(this.cards[number], frame, parts, version.finished && number === frames.length - 1);
    });
    this.ending?.remove();
    this.ending = ending && make("li", { class: "ending" }, ending);
    if (this.ending) this.list.append(this.ending);
  }

  clear() {
    this.list.replaceChildren();
    this.cards = [];
  }

  add() {
    const slot = (kind) => ({ kind, root: make("section", { class: `slot ${kind}` }), part: undefined, editor: null });
    const head = make("h3");
    const card = { head, plan: slot("plan"), picture: slot("image"), inspection: slot("inspection") };
    card.root = make("li", { class: "card" }, head, card.plan.root, card.picture.root, card.inspection.root);
    this.list.append(card.root);
    return card;
  }

  fill(card, frame, parts, isAnswer) {
    const title = frameTitle(frame);
    card.head.replaceChildren(title, ...(isAnswer ? [make("span", { class: "answer" }, "answer")] : []));
    card.root.classList.toggle("is-answer", isAnswer);
    const at = (index) => (index === null ? null : parts[index]);
    if (frame.plan === null) this.put(card.plan, null, at(frame.refines), title, () => refinesView(at(frame.refines)));
    else this.put(card.plan, frame.plan, at(frame.plan), title, planView);
    this.put(card.picture, frame.picture, at(frame.picture), title, (part) =>
      pictureView(part, `The picture of ${lower(title)}`),
    );
    this.put(card.inspection, frame.inspection, at(frame.inspection), title, inspectionView);
  }

  put(slot, index, part, title, view) {
    if (slot.part === part && slot.index === index) return;
    Object.assign(slot, { part, index, editor: null });
    slot.root.classList.remove("editing");
    const shown = part === null && slot.kind !== "plan" ? [] : view(part);
    slot.root.replaceChildren(this.caption(slot, index, part, title), ...shown);
    slot.root.classList.toggle("blank-slot", part === null && slot.kind !== "plan");
  }

  caption(slot, index, part, title) {
    const label = { plan: index === null ? "refine" : "plan", image: "picture", inspection: "inspection" }[slot.kind];
    const caption = make("div", { class: "caption" }, make("span", {}, label));
    if (index === null || !part || part.growing) return caption;
    if (this.version.marks.has(index)) caption.append(make("span", { class: "mark" }, "yours"));
    if (!this.actions) return caption;
    const what = `the ${label} of ${lower(title)}`;
    const act = (name) => () => this.actions[name](this.version, index, slot);
    caption.append(
      make(
        "span",
        { class: "buttons" },
        slot.kind === "plan" && part.plans.length > 1
          ? null
          : iconButton("edit", `Edit ${what}`, slot.kind === "image" ? "Paint over or replace" : "Edit", act("edit")),
        iconButton("again", `Again from ${what}`, "Again from here, by another seed", act("again")),
      ),
    );
    return caption;
  }
}

const lower = (title) => title.charAt(0).toLowerCase() + title.slice(1);
