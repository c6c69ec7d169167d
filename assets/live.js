// Asks `server.answer` every SECONDS while the element is seen, and fills the places that the answer names. Each place
// is written only where its text has changed, so that what a reader has unfolded or marked there stays.
const filled = {};
let have = null, busy = false, of = props.value;

function fill(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const place = document.querySelector(`#${id} [data-live]`);
    if (!place || (filled[id] === html && place.dataset.live)) continue;
    place.innerHTML = filled[id] = html;
    place.dataset.live = 'filled';
  }
}

async function look() {
  if (document.visibilityState !== 'visible' || !element.offsetParent) return;
  if (busy) return;
  busy = true;
  const value = props.value, seen = document.querySelector('#seen :is(input, textarea)')?.value ?? '';
  try {
    const said = await server.answer({value, seen, have});
    if (!said || value !== props.value) return;
    fill(said.parts ?? {});
    have = said.news ? null : said.have ?? have;  // asked once more until the page has taken the news
    if (said.news) trigger('tick');
  } finally {
    busy = false;
    if (value !== props.value) look();
  }
}

const timer = setInterval(() => {
  if (element.isConnected) return look();
  clearInterval(timer); appears.disconnect(); document.removeEventListener('visibilitychange', look);
}, 1000 * SECONDS);
const appears = new IntersectionObserver(entries => { if (entries.at(-1).isIntersecting) look(); });
appears.observe(element);
document.addEventListener('visibilitychange', look);  // back from another tab of the browser
watch('value', () => { if (props.value !== of) { of = props.value; look(); } });
