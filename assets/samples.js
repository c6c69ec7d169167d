// The samples on the Runs tab: the slider chooses the step whose answers are shown. All of them are in the page; texts
// go in as text, never as markup. `element` is the component; it stays while what is in it is drawn anew.
let chosen = null;  // the step that a person has gone back to; null follows the newest

const card = () => element.querySelector('.sampled');
const steps = box => Object.keys(JSON.parse(box.dataset.outputs)).map(Number).sort((a, b) => a - b);

function show(step) {
  const box = card(), said = JSON.parse(box.dataset.outputs)[step] ?? {};
  const told = step.toLocaleString('en');
  for (const place of box.querySelectorAll('[data-number]')) {
    const output = said[place.dataset.number];
    place.textContent = output === undefined ? '–' : output || '(nothing)';
  }
  for (const place of box.querySelectorAll('.at, output')) place.textContent = told;
  box.querySelector('input[type=range]').setAttribute('aria-valuetext', `step ${told}`);
}

element.addEventListener('input', event => {
  if (!event.target.matches('.sampled input[type=range]')) return;
  const every = steps(card()), step = every[Number(event.target.value)];
  chosen = step === every.at(-1) ? null : step;
  show(step);
});

watch('value', () => requestAnimationFrame(() => {  // drawn anew: another run, or a new measurement
  const slider = card()?.querySelector('input[type=range]');
  const place = slider && chosen !== null ? steps(card()).indexOf(chosen) : -1;
  if (place < 0) { chosen = null; return; }
  slider.value = place;
  show(chosen);
}));
