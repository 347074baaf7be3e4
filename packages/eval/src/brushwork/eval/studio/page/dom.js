/** Elements made in code: text goes in as text, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  edit: "M3 13l.7-3L10.6 3.1a1.2 1.2 0 0 1 1.7 0l.6.6a1.2 1.2 0 0 1 0 1.7L6 12.3 3 13zM9.5 4.2l2.3 2.3",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v2.8h-2.8",
  dice:
    "M4.5 2.5h7a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2z" +
    "M5.6 5.6h.01M8 8h.01M10.4 10.4h.01M10.4 5.6h.01M5.6 10.4h.01",
};

/**
 * An element with its attributes and children.
 *
 * Functions among the attributes are listeners of the event of that name; true is an empty attribute; false, null and
 * undefined are left out. Children are nodes or text.
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "value") element.value = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** One of the line drawings above, which inherits the colour of the text around it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon and says what it does. */
export function iconButton(name, label, title, onClick) {
  return make(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title, click: onClick },
    icon(name),
  );
}

export const find = (id) => document.getElementById(id);
