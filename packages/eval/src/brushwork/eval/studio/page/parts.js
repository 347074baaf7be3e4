/** How one part looks: a plan with its tags, a picture and how it grew, an inspection and its verdict. */

import { make } from "./dom.js";

const TAG = /<\/?(ins|des|refine)>/g;
const SPOKEN = { ins: "instruction: ", des: "description: ", refine: "refinement: " };
const SHOWN_GROWTH = 10;

function tag(name) {
  return make(
    "span",
    { class: `tag ${name}` },
    make("span", { class: "unseen" }, SPOKEN[name]),
    make("span", { "aria-hidden": "true" }, `<${name}>`),
  );
}

function said(name, text) {
  return make("p", { class: `said ${name}` }, name === "check" ? null : tag(name), " ", text);
}

/** A text while it is written: every tag opens a line of its colour. */
function growingText(text) {
  const lines = [];
  let name = "check";
  let from = 0;
  const close = (to, whole) => {
    const words = text.slice(from, to).trim();
    if (words || (whole && name !== "check")) lines.push(said(name, words));
  };
  for (const match of text.matchAll(TAG)) {
    const opens = !match[0].startsWith("</");
    close(match.index, !opens);
    name = opens ? match[1] : "check";
    from = match.index + match[0].length;
  }
  close(text.length, true);
  lines.at(-1)?.classList.add("writing");
  return lines;
}

export function planView(part) {
  if (part.growing) return growingText(part.text);
  return part.plans.flatMap((plan) => [said("ins", plan.instruction), said("des", plan.description)]);
}

export function inspectionView(part) {
  if (part.growing) return growingText(part.text);
  const accepts = !part.refine;
  return [
    make("p", { class: `verdict ${accepts ? "accepts" : "objects"}` }, accepts ? "accepted" : "to be refined"),
    part.check ? said("check", part.check) : null,
    accepts ? null : said("refine", part.refine),
  ].filter(Boolean);
}

export function pictureView(part, title) {
  const image = make("img", {
    src: part.image,
    alt: part.growing ? `${title}, step ${part.step} of ${part.steps}` : title,
    draggable: "false",
  });
  const box = make("div", { class: part.growing ? "picture growing" : "picture" }, image);
  if (part.growing) {
    box.append(make("span", { class: "step" }, `step ${part.step}/${part.steps}`));
    box.append(make("progress", { max: part.steps, value: part.step, "aria-hidden": "true" }));
  }
  return part.growth?.length > 1 ? [box, growthView(part.growth)] : [box];
}

function growthView(growth) {
  const count = Math.min(SHOWN_GROWTH, growth.length);
  const chosen = Array.from(
    { length: count },
    (_, n) => growth[Math.round((n * (growth.length - 1)) / Math.max(count - 1, 1))],
  );
  const small = chosen.map((source) => make("img", { src: source, alt: "", draggable: "false" }));
  return make(
    "div",
    { class: "growth", "aria-hidden": "true", title: `How it grew, in ${growth.length} steps` },
    ...small,
  );
}

/** What the round is about where there is no plan of its own. */
export function refinesView(inspection) {
  return inspection?.refine
    ? [said("refine", inspection.refine)]
    : [make("p", { class: "said none" }, "drawn from the prompt")];
}
