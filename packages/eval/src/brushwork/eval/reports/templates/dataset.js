const form = document.querySelector(".filters");
const cards = [...document.querySelectorAll("article.card")];
const texts = cards.map((card) => card.textContent.toLowerCase());

function show() {
  const chosen = new FormData(form);
  const asked = ["split", "kind", "label"].filter((name) => form.elements[name]); // no boxes: all of them
  const words = chosen.get("text").toLowerCase().split(/\s+/).filter(Boolean);
  let visible = 0;
  cards.forEach((card, number) => {
    const found = words.every((word) => texts[number].includes(word));
    card.hidden = !(found && asked.every((name) => chosen.getAll(name).includes(card.dataset[name])));
    visible += !card.hidden;
  });
  form.querySelector("[role=status]").textContent = `${visible} of ${cards.length} samples`;
}

form.hidden = false;
form.addEventListener("input", show);
form.addEventListener("submit", (event) => event.preventDefault());
show();
