const form = document.querySelector(".filters");
const cards = [...document.querySelectorAll("article.card")];

function show() {
  const chosen = (name) => new Set([...form.elements[name].length === undefined ? [form.elements[name]] : form.elements[name]]
    .filter((box) => box.checked).map((box) => box.value));
  const arms = chosen("arm"), kinds = chosen("kind"), outcomes = chosen("outcome");
  let visible = 0, answers = 0;
  for (const card of cards) {
    let any = false;
    for (const strip of card.querySelectorAll(".strip")) {
      strip.hidden = !(arms.has(strip.dataset.arm) && outcomes.has(strip.dataset.outcome));
      any ||= !strip.hidden;
      answers += !strip.hidden && kinds.has(card.dataset.kind);
    }
    card.hidden = !any || !kinds.has(card.dataset.kind);
    visible += !card.hidden;
  }
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = [...group.querySelectorAll(".card")].every((card) => card.hidden);
  }
  form.querySelector("[role=status]").textContent = `${answers} answers to ${visible} prompts`;
}

form.hidden = false;
form.addEventListener("change", show);
show();
