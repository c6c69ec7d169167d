// The table of a suite's answers: filter by text, suite and tag, show only what differs, sort by a column.
const rows = () => [...element.querySelectorAll("tbody tr")];
const asked = (name) => element.querySelector(`[data-${name}]:is(input, select)`);

function filter() {
  if (!asked("find")) return;
  const words = asked("find").value.toLowerCase(), suite = asked("suite").value, tag = asked("tag").value;
  const differ = asked("differ").checked;
  let shown = 0;
  for (const row of rows()) {
    const fits = (!words || row.innerText.toLowerCase().includes(words) || row.textContent.toLowerCase().includes(words))
      && (!suite || row.dataset.suite === suite)
      && (!tag || row.dataset.tags.split("|").includes(tag))
      && (!differ || row.dataset.differ === "1");
    row.hidden = !fits;
    shown += fits;
  }
  element.querySelector("[data-count]").textContent = `${shown} of ${rows().length} prompts`;
}

function sort(key, button) {
  const body = element.querySelector("tbody");
  const down = button.dataset.order !== "down";
  element.querySelectorAll("[data-sort]").forEach((other) => delete other.dataset.order);
  button.dataset.order = down ? "down" : "up";
  const all = rows();
  all.forEach((row, place) => { row.dataset.place ??= place; });
  const sign = key === "place" ? (down ? 1 : -1) : (down ? -1 : 1), by = asked("by")?.value;
  const value = (row) => key === "place" || key === "change" ? Number(row.dataset[key])
    : JSON.parse(row.dataset.values)[by]?.[Number(key)] ?? -1;
  const values = new Map(all.map((row) => [row, value(row)]));
  all.sort((a, b) => sign * (values.get(a) - values.get(b)) || a.dataset.place - b.dataset.place);
  body.append(...all);
}

element.addEventListener("input", filter);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sort]");
  if (button) sort(button.dataset.sort, button);
});
new MutationObserver(() => {
  const counted = element.querySelector("[data-count]");
  if (counted && !counted.textContent) filter();
}).observe(element, { childList: true, subtree: true });
filter();
