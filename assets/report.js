// The report on the Data tab: a finding opens its rows, and the line of max_length in the histogram can be moved.
// `element` is the component; it stays while what is in it is drawn anew.
const figure = () => element.querySelector('.lengths');

element.addEventListener('click', event => {
  const button = event.target.closest('[data-flag], [data-row]');
  if (!button) return;
  event.preventDefault();
  trigger('select', { flag: button.dataset.flag || '', row: button.dataset.row || '' });
  document.querySelector('#rows-card')?.scrollIntoView({ behavior: 'smooth', block: 'start' });
});

// what a max_length would cut, from the lengths that the report carries
function cuts(limit) {
  let rows = 0, tokens = 0, all = 0;
  for (const [length, count] of JSON.parse(figure().dataset.lengths)) {
    all += count;
    if (length > limit) { rows += count; tokens += (length - limit) * count; }
  }
  const share = all ? (100 * rows / all).toFixed(1) : '0.0';
  return rows ? `cuts ${rows.toLocaleString('en')} ${rows === 1 ? 'row' : 'rows'} (${share} %) by ${tokens.toLocaleString('en')} tokens` : 'cuts no row';
}

function move(limit) {
  const box = figure(), line = box.querySelector('.limit'), span = Number(box.dataset.span);
  const width = box.querySelector('svg').viewBox.baseVal.width;
  limit = Math.max(8, Math.round(limit));
  const x = Math.min(1, limit / span) * width;
  line.setAttribute('transform', `translate(${x} 0)`);
  line.setAttribute('aria-valuenow', limit);
  const text = line.querySelector('text'), left = x > width / 2;
  text.textContent = `max_length ${limit.toLocaleString('en')}`;
  text.setAttribute('x', left ? -8 : 8);
  text.setAttribute('text-anchor', left ? 'end' : 'start');
  for (const bar of box.querySelectorAll('rect[data-from]')) bar.classList.toggle('cut-bar', Number(bar.dataset.from) >= limit);
  box.querySelector('output').textContent = `max_length ${limit.toLocaleString('en')} ${cuts(limit)}`;
  return limit;
}

element.addEventListener('pointerdown', event => {
  const line = event.target.closest('.limit');
  if (!line) return;
  event.preventDefault();
  const svg = line.ownerSVGElement, span = Number(figure().dataset.span);
  let limit = Number(line.getAttribute('aria-valuenow'));
  const follow = e => {
    const box = svg.getBoundingClientRect();
    limit = move(Math.min(1, Math.max(0, (e.clientX - box.left) / box.width)) * span);
  };
  const drop = () => {
    window.removeEventListener('pointermove', follow);
    window.removeEventListener('pointerup', drop);
    trigger('input', { max_length: limit });
  };
  window.addEventListener('pointermove', follow);
  window.addEventListener('pointerup', drop);
});

let waiting = 0;
element.addEventListener('keydown', event => {
  const line = event.target.closest('.limit');
  const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -16, PageUp: 16 }[event.key];
  if (!line || !by) return;
  event.preventDefault();
  const limit = move(Number(line.getAttribute('aria-valuenow')) + by);
  clearTimeout(waiting);  // a step of a key is not yet a choice
  waiting = setTimeout(() => trigger('input', { max_length: limit }), 900);
});
