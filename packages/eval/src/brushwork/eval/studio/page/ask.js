/** The form at the left: the prompt, its examples, and the settings of the next drawing. */

import { find, icon, make } from "./dom.js";

const STRATEGIES = {
  process: "Plan, sketch, inspect, refine",
  single_pass: "Single pass: one picture",
  planner: "External planner",
  inspector: "External inspector",
};
const NUMBERS = ["num_steps", "max_images", "text_scale", "image_scale", "temperature"];
const MAX_SEED = 2 ** 31 - 1;

export const anySeed = () => Math.floor(Math.random() * MAX_SEED);

/** Fills the form from what the server says of itself, and calls `onDraw({prompt, seed, settings})` when it is sent. */
export function prepareForm(about, onDraw) {
  const { limits, defaults } = about;
  for (const name of about.strategies)
    find("strategy").append(make("option", { value: name }, STRATEGIES[name] ?? name));
  for (const name of ["strategy", "seed", ...NUMBERS]) if (defaults[name] != null) find(name).value = defaults[name];
  const most = { text_scale: limits.scale, image_scale: limits.scale, ...limits };
  for (const name of NUMBERS) find(name).max = most[name] ?? "";
  find("dice").append(icon("dice"));
  find("dice").addEventListener("click", () => (find("seed").value = anySeed()));
  const count = () => {
    const length = [...find("prompt").value].length;
    find("prompt-length").textContent =
      `${length.toLocaleString("en")} of ${limits.prompt_chars.toLocaleString("en")} characters`;
    find("prompt-length").classList.toggle("over", length > limits.prompt_chars);
  };
  find("prompt").addEventListener("input", count);
  count();
  find("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    find("ask").requestSubmit();
  });
  const examples = about.examples.map((text) =>
    make("button", { type: "button", class: "example", click: () => setPrompt(text) }, text),
  );
  find("ask")
    .querySelector(".examples")
    .append(...examples);
  find("settings").open = matchMedia("(min-width: 60rem)").matches;
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    onDraw({ prompt: find("prompt").value, seed: number("seed"), settings: settings() });
  });
}

export function setPrompt(text) {
  find("prompt").value = text;
  find("prompt").dispatchEvent(new Event("input"));
  find("prompt").focus();
}

/** Whether something is drawn now, which can be stopped. */
export function setBusy(busy) {
  find("start").disabled = busy;
  find("stop").disabled = !busy;
  find("ask").toggleAttribute("aria-busy", busy);
}

function settings() {
  return { strategy: find("strategy").value, ...Object.fromEntries(NUMBERS.map((name) => [name, number(name)])) };
}

/** The number in a field; null where there is none, which the server says something about. */
function number(name) {
  const value = find(name).value.trim();
  return value === "" ? null : Number(value);
}
