// Asks `server.answer` every SECONDS while the element is seen, and fills the places that the answer names. Each place
// is written only where its text has changed, so that what a reader has unfolded or marked there stays.
const filled = {};
const PATIENCE = 10000;  // ms; an answer that takes longer is not waited for
let have = null, asked = 0, turn = 0, of = props.value;

function fill(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const place = document.querySelector(`#${id} [data-live]`);
    if (place) place.style.visibility = '';
    if (!place || (filled[id] === html && place.dataset.live)) continue;
    place.innerHTML = filled[id] = html;
    place.dataset.live = 'filled';
  }
}

function conceal() {  // what is shown is of another run, and stays out of sight until the answer comes
  for (const id of Object.keys(filled)) {
    const place = document.querySelector(`#${id} [data-live]`);
    if (place) place.style.visibility = 'hidden';
  }
}

async function look() {
  if (document.visibilityState !== 'visible' || !element.offsetParent) return;
  if (asked && performance.now() - asked < PATIENCE) return;
  asked = performance.now();
  const mine = ++turn, value = props.value, seen = document.querySelector('#seen :is(input, textarea)')?.value ?? '';
  try {
    const said = await server.answer({value, seen, have});
    if (!said || value !== props.value || mine !== turn) return;
    fill(said.parts ?? {});
    have = said.news ? null : said.have ?? have;  // asked once more until the page has taken the news
    if (said.news) trigger('tick');
  } finally {
    if (mine === turn) asked = 0;
    if (value !== props.value) look();
  }
}

let away = 0;  // seconds that the element has not been in the page; Gradio moves parts about while it draws one
const timer = setInterval(() => {
  away = element.isConnected ? 0 : away + SECONDS;
  if (!away) return look();
  if (away < 60) return;
  clearInterval(timer); appears.disconnect(); document.removeEventListener('visibilitychange', look);
}, 1000 * SECONDS);
const appears = new IntersectionObserver(entries => { if (entries.at(-1).isIntersecting) look(); });
appears.observe(element);
document.addEventListener('visibilitychange', look);  // back from another tab of the browser
watch('value', () => { if (props.value !== of) { of = props.value; conceal(); look(); } });
