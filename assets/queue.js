// The list of runs that wait, and the trash: a button says what is to be done with which run.
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-act]');
  if (!button || button.disabled) return;
  button.disabled = true;  // until the list is drawn anew
  trigger('select', { act: button.dataset.act, run: button.dataset.run });
});
