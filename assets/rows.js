// The rows on the Data tab: what is pointed at lights up in both faces of its row, and a token tells its id.
// `element` is the component; it stays while what is in it is drawn anew.
const light = (body, turn) => {
  for (const lit of body.querySelectorAll('.lit')) lit.classList.remove('lit');
  if (turn === undefined) return;
  for (const part of body.querySelectorAll(`[data-turn="${turn}"]`)) part.classList.add('lit');
};

element.addEventListener('pointerover', event => {
  const body = event.target.closest('.row-body');
  if (!body) return;
  light(body, event.target.closest('[data-turn]')?.dataset.turn);
  const token = event.target.closest('[data-token]');
  if (token) body.querySelector('.readout').textContent = token.dataset.token;
});

element.addEventListener('pointerout', event => {
  const body = event.target.closest('.row-body');
  if (body && !body.contains(event.relatedTarget)) light(body);
});

// a message that is clicked brings its tokens into view
element.addEventListener('click', event => {
  const turn = event.target.closest('.turn[data-turn]');
  const tokens = turn?.closest('.row-body').querySelector('.tokens');
  const first = tokens?.querySelector(`[data-turn="${turn.dataset.turn}"]`);
  if (first) tokens.scrollTop += first.getBoundingClientRect().top - tokens.getBoundingClientRect().top - 12;
});
