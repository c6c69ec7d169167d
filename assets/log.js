// The worker's output: its end while nobody searches, else the lines that hold the text. `props.value` is the run's id.
const part = name => element.querySelector(name);
const lines = part('.log-lines'), wanted = part('.log-search'), told = part('.log-told'), copy = part('.log-copy');
let have = null, busy = false, typing = null;

async function look() {
  if (busy || document.visibilityState !== 'visible' || !element.offsetParent) return;
  busy = true;
  const run = props.value, search = wanted.value;
  try {
    if (!run) return;
    part('.log-download').href = `runs/${run}/log.txt`;
    const said = await server.log({run, search, have: have?.run === run && have.search === search ? have.size : null});
    if (!said || said.same || run !== props.value || search !== wanted.value) return;
    have = {run, search, size: said.size};
    const atEnd = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 30;
    lines.innerHTML = said.html;
    told.textContent = said.told;
    if (atEnd || search) lines.scrollTop = lines.scrollHeight;
  } finally {
    busy = false;
    if (search !== wanted.value) look();
  }
}

async function copied() {
  try {
    const answer = await fetch(`runs/${props.value}/log.txt`);
    if (!answer.ok) throw new Error(answer.statusText);
    await navigator.clipboard.writeText(await answer.text());
    copy.textContent = 'Copied';
  } catch (error) {
    copy.textContent = 'Not copied';
    copy.title = `The browser did not let the log be copied (${error.message}); download it instead.`;
  }
  setTimeout(() => copy.textContent = 'Copy all', 4000);
}

wanted.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(look, 250); });
copy.addEventListener('click', copied);
let away = 0;  // seconds that the element has not been in the page; Gradio moves parts about while it draws one
const timer = setInterval(() => {
  away = element.isConnected ? 0 : away + 1.5;
  if (!away) look();
  else if (away > 60) clearInterval(timer);
}, 1500);
watch('value', look);
look();
