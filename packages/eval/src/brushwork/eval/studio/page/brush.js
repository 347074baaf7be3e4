/** A dialog in which a picture is painted over, replaced by a file, or put back as it was. */

import { find, make } from "./dom.js";

const COLOURS = [
  ["red", "#e61e14"], ["green", "#14be1e"], ["blue", "#1e28eb"], ["yellow", "#f5e114"], ["purple", "#e11ed7"],
  ["cyan", "#1ee6dc"], ["paper", "#f5f5f5"], ["black", "#161616"],
];
const MAX_UNDO = 40;

/**
 * Opens the dialog.
 *
 * @param {string} source data URL of the picture
 * @param {string} label what it is, such as "the picture of round 2"
 * @param {{image_bytes: number, image_pixels: number}} limits of a file
 * @returns {Promise<string|null>} a PNG as a data URL, or null where nothing is to be done
 */
export async function paint(source, label, limits) {
  const original = make("img", { src: source });
  await original.decode();
  return new Promise((resolve) => new Brush(find("brush"), original, label, limits, resolve));
}

class Brush {
  constructor(dialog, original, label, limits, resolve) {
    Object.assign(this, { dialog, original, limits, colour: COLOURS[0][1], undone: [], at: null });
    this.canvas = make("canvas", {
      width: original.naturalWidth,
      height: original.naturalHeight,
      tabindex: "0",
      role: "img",
    });
    this.canvas.setAttribute("aria-label", `Canvas with ${label}: arrow keys move the brush, the space bar paints`);
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.pen.drawImage(original, 0, 0);
    this.cursor = make("div", { class: "cursor", hidden: true });
    this.message = make("p", { class: "hint", role: "alert" });
    this.size = make("input", {
      type: "range",
      id: "brush-size",
      min: "1",
      max: String(Math.max(2, Math.round(original.naturalWidth / 4))),
    });
    this.size.value = String(Math.max(1, Math.round(original.naturalWidth / 10)));
    this.size.addEventListener("input", () => this.point());
    this.build(label);
    this.listen();
    let result = null;
    this.finish = (value) => {
      result = value;
      dialog.close();
    };
    dialog.addEventListener("close", () => resolve(result), { once: true });
    dialog.showModal();
    this.canvas.focus();
  }

  build(label) {
    const button = (text, onClick, kind = "quiet") =>
      make("button", { type: "button", class: kind, click: onClick }, text);
    const upload = make("input", { type: "file", id: "brush-file", accept: "image/png,image/jpeg,image/webp" });
    upload.addEventListener("change", () => this.load(upload));
    this.dialog.replaceChildren(
      make("h2", { id: "brush-title" }, `Paint over ${label}`),
      make(
        "div",
        { class: "brush" },
        make("div", { class: "easel" }, this.canvas, this.cursor),
        make(
          "div",
          { class: "palette-side" },
          this.palette(),
          make("div", { class: "field" }, make("label", { for: "brush-size" }, "Size of the brush"), this.size),
          make(
            "div",
            { class: "row" },
            button("Undo", () => this.undo()),
            button("As it was", () => this.restore()),
          ),
          make("div", { class: "field" }, make("label", { for: "brush-file" }, "Replace by a file"), upload),
          this.message,
        ),
      ),
      make(
        "div",
        { class: "go" },
        button("Go on from here", () => this.finish(this.canvas.toDataURL("image/png")), "primary"),
        button("Cancel", () => this.finish(null), ""),
      ),
    );
  }

  palette() {
    const choose = (name, value, shown) => {
      const input = make("input", {
        type: "radio",
        name: "colour",
        "aria-label": name,
        checked: value === this.colour,
      });
      input.addEventListener("change", () => (this.colour = value));
      const dab = make("span", { class: value === null ? "dab eraser" : "dab" });
      if (shown) dab.style.background = shown;
      return make("label", { title: name }, input, dab);
    };
    const own = make("input", {
      type: "color",
      value: "#ff8800",
      "aria-label": "A colour of your own",
      title: "A colour of your own",
    });
    own.addEventListener("input", () => {
      this.colour = own.value;
      for (const input of this.dialog.querySelectorAll("input[name=colour]")) input.checked = false;
    });
    const dabs = COLOURS.map(([name, value]) => choose(name, value, value));
    return make(
      "fieldset",
      { class: "palette" },
      make("legend", {}, "Colour"),
      ...dabs,
      choose("eraser: back to what was there", null),
      own,
    );
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.remember();
      this.at = null;
      this.stroke(this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      this.point(this.place(event));
      if (canvas.hasPointerCapture(event.pointerId)) this.stroke(this.place(event));
    });
    canvas.addEventListener("pointerleave", () => (this.cursor.hidden = true));
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = this.spot ?? [this.canvas.width / 2, this.canvas.height / 2];
    if (by) this.point(here.map((value, axis) => Math.min(Math.max(value + by[axis], 0), this.limit(axis))));
    else if (event.key === " ") {
      this.remember();
      this.at = null;
      this.point(here);
      this.stroke(here);
    } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  limit(axis) {
    return (axis ? this.canvas.height : this.canvas.width) - 1;
  }

  /** Where on the picture a pointer is, in its pixels. */
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.canvas.width,
      ((event.clientY - box.top) / box.height) * this.canvas.height,
    ];
  }

  /** Shows what the brush would cover. */
  point(spot = this.spot) {
    if (!spot) return;
    this.spot = spot;
    const [left, top, side] = this.square(spot);
    this.cursor.hidden = false;
    const style = this.cursor.style;
    style.left = `${(100 * left) / this.canvas.width}%`;
    style.top = `${(100 * top) / this.canvas.height}%`;
    style.width = `${(100 * side) / this.canvas.width}%`;
    style.height = `${(100 * side) / this.canvas.height}%`;
  }

  square([x, y]) {
    const side = Number(this.size.value);
    return [Math.round(x - side / 2), Math.round(y - side / 2), side];
  }

  /** Covers everything between the last place and this one. */
  stroke(to) {
    const from = this.at ?? to;
    const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let n = 1; n <= count; n++) {
      const [x, y, side] = this.square([0, 1].map((axis) => from[axis] + ((to[axis] - from[axis]) * n) / count));
      if (this.colour === null) this.pen.drawImage(this.original, x, y, side, side, x, y, side, side);
      else {
        this.pen.fillStyle = this.colour;
        this.pen.fillRect(x, y, side, side);
      }
    }
    this.at = to;
  }

  remember() {
    this.undone.push(this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.undone.length > MAX_UNDO) this.undone.shift();
  }

  undo() {
    const before = this.undone.pop();
    if (before) this.pen.putImageData(before, 0, 0);
  }

  restore() {
    this.remember();
    this.pen.drawImage(this.original, 0, 0);
  }

  /** Draws a picture over the whole canvas, cut where it is longer. */
  cover(picture) {
    const { width, height } = this.canvas;
    const scale = Math.max(width / picture.naturalWidth, height / picture.naturalHeight);
    const [wide, high] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
    this.pen.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
  }

  async load(upload) {
    const [file] = upload.files;
    this.message.textContent = "";
    if (!file) return;
    const url = URL.createObjectURL(file);
    try {
      const picture = await readable(file, url, this.limits);
      this.remember();
      this.pen.imageSmoothingQuality = "high";
      this.cover(picture);
    } catch (error) {
      this.message.textContent = error.message;
      upload.value = "";
    }
    URL.revokeObjectURL(url);
  }
}

/** The picture in a file. Its header is looked at first: what is loaded is decoded only when it is drawn. */
async function readable(file, url, limits) {
  if (file.size > limits.image_bytes)
    throw new Error(`${file.name} has ${mega(file.size)} MB; at most ${mega(limits.image_bytes)} are taken.`);
  const picture = make("img");
  await new Promise((resolve, reject) => {
    picture.onload = resolve;
    picture.onerror = () =>
      reject(new Error(`${file.name} is no picture that can be read; a PNG, JPEG or WebP file was expected.`));
    picture.src = url;
  });
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (width * height <= limits.image_pixels) return picture;
  throw new Error(
    `${file.name} has ${width} × ${height} pixels; at most ${mega(limits.image_pixels)} million are taken.`,
  );
}

const mega = (number) => (number / 1e6).toFixed(1);
