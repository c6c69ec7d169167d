// The panes of the Compare tab. They are drawn anew while answers come in; what a person has unfolded or scrolled to
// stays. Buttons say what they are for by `data-act`. Keys vote, except while something is being typed.
// `element` is the component.
const open = new Set(), places = new Map();
const paneOf = node => node.closest('.pane')?.dataset.pane;
const numbered = kind => [...element.querySelectorAll('.pane')].flatMap(pane =>
  [...pane.querySelectorAll(kind)].map((node, at) => [`${pane.dataset.pane}.${at}`, node]));

element.addEventListener('toggle', event => {
  const found = numbered('details.thinking').find(([, node]) => node === event.target);
  if (found) open[event.target.open ? 'add' : 'delete'](found[0]);
}, true);

element.addEventListener('scroll', event => {
  const turns = event.target;
  if (!turns.classList?.contains('turns')) return;
  const follows = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 30;
  places.set(paneOf(turns), follows ? Infinity : turns.scrollTop);
}, true);

function settle() {
  for (const [key, node] of numbered('details.thinking')) if (open.has(key)) node.open = true;
  for (const turns of element.querySelectorAll('.pane .turns')) {
    turns.scrollTop = Math.min(places.get(paneOf(turns)) ?? Infinity, turns.scrollHeight);
  }
}
watch('value', () => { settle(); requestAnimationFrame(settle); });

// the text of a turn as the model wrote it, from the hidden field
function turnOf({ pane, prompt, role }) {
  const field = document.querySelector('#history textarea, #history input');
  let number = -1;
  for (const turn of JSON.parse(field?.value || '[]')[pane] ?? []) {
    if (turn.role === 'user') number += 1;
    if (number === Number(prompt) && turn.role === role) return turn.content;
  }
  return null;
}

function save(button) {
  const text = turnOf(button.dataset);
  if (text === null) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
  link.download = `${button.dataset.role}-${Number(button.dataset.pane) + 1}-${Number(button.dataset.prompt) + 1}.txt`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// a turn becomes a field with its whole text
function edit(button) {
  const text = turnOf(button.dataset), bubble = button.closest('.turn');
  if (text === null || bubble.querySelector('textarea')) return;
  const { pane, prompt, role } = button.dataset, before = [...bubble.childNodes];
  const field = document.createElement('textarea'), keep = document.createElement('button'), drop = document.createElement('button');
  field.value = text;
  field.rows = Math.min(12, 2 + text.length / 60);
  field.setAttribute('aria-label', `The ${role} turn`);
  keep.textContent = role === 'user' ? 'Ask this instead' : 'Take this as its answer';
  drop.textContent = 'Cancel';
  for (const each of [keep, drop]) { each.type = 'button'; each.className = 'small'; }
  drop.onclick = () => bubble.replaceChildren(...before);
  keep.onclick = () => {
    keep.disabled = drop.disabled = true;
    trigger('select', { act: 'edit', pane, prompt, role, text: field.value });
  };
  field.onkeydown = event => {
    if (event.key === 'Escape') drop.onclick();
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) keep.onclick();
  };
  bubble.replaceChildren(field, keep, drop);
  bubble.classList.add('editing');
  field.focus();
}

function vote(button) {
  for (const each of element.querySelectorAll('.votes button')) each.disabled = true;
  trigger('select', { act: 'vote', vote: button.dataset.vote, round: button.dataset.round });
}

element.addEventListener('click', event => {
  const button = event.target.closest('button[data-act]');
  if (!button || button.disabled) return;
  const { act, pane } = button.dataset;
  if (act === 'whole') save(button);
  if (act === 'edit') edit(button);
  if (act === 'vote') vote(button);
  if (act === 'stop') { button.disabled = true; trigger('select', { act, pane }); }
});

document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !element.offsetParent) return;
  if (event.target.closest?.('input, textarea, select, [contenteditable=true]')) return;
  for (const button of element.querySelectorAll('.votes button:not(:disabled)')) {
    if (button.querySelector('kbd').textContent.toLowerCase() === event.key.toLowerCase()) vote(button);
  }
});
