// What the form and the prompt need beside Gradio: bounds and steps of fields for numbers, marks on fields with problems,
// and the Enter key. `props.value` is JSON: for each field for numbers, by its id, `min`, `max` and `factor`.
const fields = JSON.parse(props.value || '{}');
const inputOf = id => document.querySelector(`#${CSS.escape(id)} :is(input, textarea)`);

// Arrow keys and the wheel step from the lowest value, and not beyond a bound.
function bound() {
  for (const [id, {min, max, factor}] of Object.entries(fields)) {
    const input = inputOf(id);
    if (!input || input.dataset.bound) continue;
    input.dataset.bound = 'yes';
    if (min !== null && !factor) input.min = min;
    if (max !== null) input.max = max;
    if (factor) input.classList.add('by-factors');
  }
}

// The next of 1, 2, 5, 10, 20, ... above a number, or below it.
function nextFactor(value, up) {
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  const steps = [0.5, 1, 2, 5, 10].map(factor => Number((factor * power).toPrecision(1)));
  return up ? steps.find(step => step > value * 1.0001) : steps.findLast(step => step < value * 0.9999);
}

function set(input, value) {
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(input, value);
  input.dispatchEvent(new Event('input', {bubbles: true}));
}

document.addEventListener('keydown', event => {
  const input = event.target;
  if (input.matches?.('input.by-factors') && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
    event.preventDefault();
    const value = Number(input.value);
    if (!(value > 0)) return;
    const next = nextFactor(value, event.key === 'ArrowUp');
    if (!input.max || next <= Number(input.max)) set(input, String(next));
    return;
  }
  // Enter sends the prompt and Shift+Enter starts a new line; Gradio has it the other way round. While an input method
  // is composing, Enter takes its suggestion.
  if (input.closest?.('#prompt') && event.key === 'Enter') {
    event.stopImmediatePropagation();
    if (event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    document.querySelector('#send')?.click();
  }
}, true);
document.addEventListener('keypress', event => {  // this is where Gradio listens
  if (event.target.closest?.('#prompt') && event.key === 'Enter') event.stopImmediatePropagation();
}, true);

// The panel names the fields with problems; they are marked where they stand.
let marked = [];
function mark() {
  bound();
  const named = JSON.parse(document.querySelector('#glance [data-invalid]')?.dataset.invalid || '[]');
  for (const id of marked) if (!named.includes(id)) inputOf(id)?.removeAttribute('aria-invalid');
  for (const id of named) inputOf(id)?.setAttribute('aria-invalid', 'true');
  marked = named;
}
let due = 0;
const seen = new MutationObserver(() => { cancelAnimationFrame(due); due = requestAnimationFrame(mark); });
seen.observe(document.body, {childList: true, subtree: true});
mark();
