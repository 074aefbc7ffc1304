const box = document.querySelector("input"), count = document.querySelector("output");
const cards = [...document.querySelectorAll("figure")];
const texts = cards.map(card => card.textContent.toLowerCase());
function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  cards.forEach((card, at) => {
    card.hidden = !words.every(word => texts[at].includes(word));
    shown += !card.hidden;
  });
  count.value = `${shown} of ${cards.length}`;
}
let timer;
box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 150); });
box.parentElement.hidden = false;
filter();
