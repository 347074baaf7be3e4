/** What is known of a drawing: its versions, what the server's events make of them, and the rounds that they show. */

const KEPT_SKETCH = 100_000; // characters of a data URL; larger sketches are shown once and forgotten
const REPLAYED = ["wrote", "sketched", "placed", "cost"];
const NO_COST = { text_tokens: 0, prefilled_tokens: 0, denoise_steps: 0, model_forwards: 0, images: 0, seconds: 0 };

/**
 * A drawing as far as it goes, from its first part or from where it left another version.
 *
 * @param {object} given
 * @param {string} given.drawing the server's id
 * @param {string} given.prompt
 * @param {string} given.why how it came about, for the reader
 * @param {object[]} [given.kept] the parts that it shares with the version it leaves
 * @param {number|null} [given.edited] the part that a person put in
 * @param {object} [given.spent] what the drawing had cost before
 */
export function newVersion({ drawing, prompt, why, kept = [], edited = null, spent = NO_COST, marks = [] }) {
  return {
    drawing, prompt, why, spent, name: "", number: null, asked: null, state: "queued", ahead: 0, message: "",
    finished: false,
    parts: [...kept], shared: kept.length, marks: new Set(edited === null ? marks : [...marks, edited]),
    growing: null, growth: [], since: 0, cost: { ...NO_COST }, total: { ...NO_COST, ...spent }, events: [],
  };
}

/** Takes in one event of the server. */
export function apply(version, event) {
  const handler = HANDLERS[event.type];
  if (!handler) return;
  handler(version, event);
  const isLarge = event.type === "sketched" && event.image.length > KEPT_SKETCH;
  if (REPLAYED.includes(event.type) && !isLarge) version.events.push(event);
}

const HANDLERS = {
  queued(version, event) {
    version.state = "queued";
    version.ahead = event.ahead;
  },
  started(version, event) {
    version.state = "running";
    version.number = event.version ?? null;
    version.since = performance.now();
  },
  wrote(version, event) {
    version.growing = { kind: textKind(version, event.text), text: event.text, tokens: event.tokens, growing: true };
  },
  sketched(version, event) {
    if (event.step <= 1) version.growth = [];
    if (event.image.length <= KEPT_SKETCH) version.growth.push(event.image);
    version.growing = { kind: "image", image: event.image, step: event.step, steps: event.steps, growing: true };
  },
  placed(version, event) {
    const { type, part, ...value } = event;
    if (value.kind === "image" && version.growth.length) value.growth = [...version.growth, value.image];
    if (part >= version.shared) version.parts[part] = value;
    version.growing = null;
    version.growth = [];
  },
  cost(version, event) {
    if (event.cost.seconds !== version.total.seconds) version.since = performance.now();
    version.total = { ...version.total, ...event.cost };
    for (const term of Object.keys(NO_COST)) version.cost[term] = version.total[term] - (version.spent[term] ?? 0);
  },
  done(version, event) {
    if (event.cost) HANDLERS.cost(version, event);
    version.growing = null;
    version.finished = event.finished;
    version.state = event.finished ? "done" : "stopped";
    version.message = typeof event.stopped === "string" ? event.stopped : "";
  },
  error(version, event) {
    version.growing = null;
    version.state = "failed";
    version.message = event.message;
  },
};

function textKind(version, text) {
  if (text.trimStart().startsWith("<ins>")) return "plan";
  return version.parts.at(-1)?.kind === "image" ? "inspection" : "plan";
}

/** What a version has cost up to this moment, with what is just being written or drawn. */
export function running(version) {
  const cost = { ...version.cost };
  if (version.state === "running" && version.since) cost.seconds += (performance.now() - version.since) / 1000;
  if (version.growing?.kind === "image") cost.denoise_steps += version.growing.step;
  else if (version.growing) cost.text_tokens += version.growing.tokens;
  return cost;
}

/**
 * The rounds of a list of parts, one entry a picture.
 *
 * @returns {{round: number, draft: number, plan: ?number, refines: ?number, picture: ?number, inspection: ?number}[]}
 *   numbers of parts, or null; `refines` is the inspection that asked for the picture
 */
export function rounds(parts) {
  const found = [];
  let round = 0;
  const open = (fields) => {
    found.push({ round, draft: 1, plan: null, refines: null, picture: null, inspection: null, ...fields });
    return found.at(-1);
  };
  parts.forEach((part, index) => {
    const last = found.at(-1);
    if (part.kind === "plan") {
      round += 1;
      open({ round, plan: index });
    } else if (part.kind === "inspection") {
      (last ?? open({})).inspection = index;
    } else if (last && last.picture === null) {
      last.picture = index;
    } else {
      round = Math.max(round, 1);
      open({ round, draft: (last?.draft ?? 0) + 1, refines: last?.inspection ?? null, picture: index });
    }
  });
  return found;
}

/** The parts of a version and, at the end, the one that is being made. */
export const shownParts = (version) => (version.growing ? [...version.parts, version.growing] : version.parts);

export const frameTitle = (frame) => `Round ${Math.max(frame.round, 1)}` + (frame.draft > 1 ? ", refined" : "");

const NAMES = { plan: "plan", image: "picture", inspection: "inspection" };

/** A part in words, such as "the plan of round 2". */
export function partName(parts, index) {
  const frame = rounds(parts).find((one) => [one.plan, one.picture, one.inspection].includes(index));
  return (
    `the ${NAMES[parts[index].kind]} of round ${Math.max(frame?.round ?? 1, 1)}` + (frame?.draft > 1 ? ", refined" : "")
  );
}

/** What the n-th version is called: A to Z, then A2 and so on. */
export const letter = (n) => String.fromCharCode(65 + (n % 26)) + (n < 26 ? "" : Math.floor(n / 26) + 1);

/** Whether two parts say or show the same. */
export const same = (one, other) => one === other || (!!one && !!other && content(one) === content(other));

function content(part) {
  if (part.kind === "image") return part.image;
  return JSON.stringify(
    part.kind === "plan" ? part.plans.map((plan) => [plan.instruction, plan.description]) : [part.check, part.refine],
  );
}
