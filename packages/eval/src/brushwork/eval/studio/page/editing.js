/** Forms in the place of a plan or an inspection, with which a person says it differently. */

import { make } from "./dom.js";

const FIELDS = {
  plan: (part) => [
    ["instruction", "Instruction", "ins", part.plans[0].instruction, "What is drawn now"],
    ["description", "Description", "des", part.plans[0].description, "The whole picture afterwards"],
  ],
  inspection: (part) => [
    ["check", "Check", "check", part.check, "What is said of the picture"],
    ["refine", "Refinement", "refine", part.refine, "What is to be changed; empty accepts the picture"],
  ],
};

/**
 * Opens a form in a slot of the timeline.
 *
 * @param {object} slot
 * @param {object} part what it says now
 * @param {string} label what is edited, for those who hear the page
 * @param {(edit: object) => Promise<boolean>} go asked with the edit; the form stays open when it answers false
 */
export function openForm(slot, part, label, go) {
  if (slot.editor) return slot.editor.querySelector("textarea").focus();
  const before = [...slot.root.childNodes];
  const inputs = {};
  const fields = FIELDS[part.kind](part).map(([name, title, tone, text, hint]) => {
    inputs[name] = make("textarea", {
      rows: "2",
      spellcheck: "false",
      value: text,
      "aria-label": `${title} of ${label}`,
    });
    return make("label", { class: `edited ${tone}` }, make("span", {}, title), inputs[name], make("small", {}, hint));
  });
  const submit = make("button", { type: "submit", class: "primary" }, "Go on from here");
  const close = () => {
    if (slot.editor !== form) return;
    slot.editor = null;
    slot.root.classList.remove("editing");
    slot.root.replaceChildren(...before);
    slot.root.querySelector("button")?.focus();
  };
  const form = make(
    "form",
    { class: "editor", "aria-label": `Edit ${label}` },
    ...fields,
    make("div", { class: "go" }, submit, make("button", { type: "button", click: close }, "Cancel")),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const edit = { kind: part.kind };
    for (const [name, input] of Object.entries(inputs)) edit[name] = input.value.trim();
    const went = await go(edit);
    submit.disabled = false;
    if (went) close();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  slot.editor = form;
  slot.root.classList.add("editing");
  slot.root.replaceChildren(form);
  Object.values(inputs)[0].focus();
  return form;
}
