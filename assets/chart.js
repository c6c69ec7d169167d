// The live charts of a run, and of others over it. The page asks the server for what is new since what it has and keeps
// the points itself, so a tick costs a few bytes, and zoom stays (uirevision). A part that is zoomed into is asked for
// once more, with all its points. `props.value` is the id of the run, `props.others` those that are drawn over it.
const P = window.Plotly;
const part = name => element.querySelector(name);
const box = name => part(`[data-chart="${name}"]`);
const css = name => getComputedStyle(element).getPropertyValue(name).trim();
const ema = part('.ema'), logScale = part('.log-scale'), axisChoice = part('.axis'), status = part('.chart-status');

const CHARTS = {
  loss: {height: 300, title: 'loss'},
  learning_rate: {height: 150, title: 'learning rate', format: 'e', zero: true},
  grad_norm: {height: 150, title: 'gradient norm'},
  tokens_per_second: {height: 150, title: 'tokens/s'},
  memory_bytes: {height: 150, title: 'memory, GB', scale: 1e-9, zero: true},
  gpu_utilization: {height: 150, title: 'GPU utilisation, %', range: [0, 105]},
  gpu_temperature: {height: 150, title: 'GPU temperature, °C'},
};
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
const SYMBOLS = ['diamond', 'square', 'circle', 'triangle-up', 'cross', 'star'];
const LETTERS = 'ABCDEF';
const MARKED_POINTS = 60;  // a curve with more points than this is a line without marks

let shown = [], runs = {}, visible = null, busy = false, again = false, awaiting = false;
let rest = 0;  // no news are asked for before this time: drawing takes at most a fortieth of the page's time
let zooming = null, resmoothing = null, drawing = 0;
let ahead = null;  // the run that the pointer rests on in the list: {label, axis, said, news: [id, points]}
let coming = null;  // the same, pressed before its points were there
let chosen = null;  // the run that was pressed in the list, until the page says so

const weight = () => Number(ema.value);
function wanted() {
  const first = chosen ?? props.value;
  return first ? [first, ...(props.others ?? []).filter(id => id !== first)].slice(0, 6) : [];
}
const empty = () => ({have: null, curves: {}, fine: {}, warnings: [], reading: null});
const ink = place => css(place ? `--run-${place + 1}` : '--tuned');

function unit() {  // of the horizontal axis: [its name, how many of the server's units it has]
  if (axisChoice.value !== 'time') return [axisChoice.value === 'tokens' ? 'tokens' : 'step', 1];
  const end = Math.max(0, ...shown.map(id => runs[id].curves.loss?.x.at(-1) ?? 0));
  return end < 300 ? ['seconds since the start', 1] : end < 3 * 3600 ? ['minutes since the start', 60] : ['hours since the start', 3600];
}

const short = id => id.replace(/^\d{8}-\d{6}-(\d{3}-)?/, '');  // without the moment of the launch
const safe = text => String(text).replace(/[&<>]/g, sign => ({'&': '&amp;', '<': '&lt;', '>': '&gt;'}[sign]));
const folded = text => safe(text).replace(/(.{50}\S*)\s/g, '$1<br>');

// Steps are whole numbers: where few of them are seen, each has a tick, and none stands between two.
function ticks() {
  const ends = visible ?? shown.flatMap(id => Object.values(runs[id]?.curves ?? {}).flatMap(({x}) => [x[0], x.at(-1)]));
  const span = Math.max(...ends) - Math.min(...ends);
  return axisChoice.value === 'step' && span < 24 ? {tickmode: 'linear', tick0: 0, dtick: span < 12 ? 1 : 2} : {};
}

function traces(name) {
  const [, scale] = unit(), chart = CHARTS[name], several = shown.length > 1;
  const line = (curve, label, color, more) => {
    const marked = curve.y.length === 1 || curve.y.includes(null) ? alone(curve.y) : [];  // no line goes to these
    const marks = marked.includes(true) ? {mode: 'lines+markers', marker: {size: marked.map(yes => yes ? 6 : 0), color}} : {mode: 'lines'};
    return {x: scale === 1 ? curve.x : curve.x.map(v => v / scale), connectgaps: false, ...marks,
      y: chart.scale ? curve.y.map(v => v === null ? null : v * chart.scale) : curve.y, name: label, type: 'scatter',
      hovertemplate: `${label} %{y:.5g}<extra></extra>`, ...more, line: {color, width: 1.8, ...more?.line}};
  };
  const run = runs[shown[0]] ?? empty();
  const whole = (one, series) => inserted(one.curves[series] ?? {x: [], y: []}, one.fine[series]);
  if (name !== 'loss') return [line(whole(run, name), chart.title, css('--color-accent'))];
  const drawn = [];
  shown.forEach((id, place) => {
    const one = runs[id], tag = several ? `${LETTERS[place]} ` : '', color = ink(place);
    const style = several ? {line: {dash: DASHES[place]}} : {};
    const average = one.curves.loss && averaged(one.curves.loss, weight(), box('loss').clientWidth || 900);
    const raw = line(whole(one, 'loss'), `${tag}training loss`, color, style);
    if (average && several) drawn.push({...raw, ...line(inserted(average, one.fine.loss?.smooth), `${tag}training loss`, color, style)});
    else if (average) {
      drawn.push({...raw, opacity: 0.3, name: 'training loss, raw'},
                 line(inserted(average, one.fine.loss?.smooth), 'training loss, smoothed', color));
    } else drawn.push(raw);
    const measured = whole(one, 'eval_loss'), few = measured.x.length <= MARKED_POINTS;
    if (measured.x.length) drawn.push(line(measured, `${tag}validation loss`, several ? color : css('--validation'), {
      mode: few ? 'lines+markers' : 'lines', marker: {symbol: SYMBOLS[place], size: 7},
      line: {dash: several ? DASHES[place] : 'dot', width: several ? 1.1 : 1.8}}));
  });
  if (run.warnings.length) drawn.push({x: run.warnings.map(w => w.x / scale), y: run.warnings.map(w => w.y), type: 'scatter',
    mode: 'markers', name: 'warning', marker: {symbol: 'triangle-up', size: 12, color: css('--warn'),
    line: {width: 1, color: css('--block-background-fill')}}, hovertext: run.warnings.map(w => folded(`step ${w.step}: ${w.text}`)),
    hovertemplate: '%{hovertext}<extra></extra>'});
  return drawn;
}

function layout(name) {
  const grid = css('--border-color-primary'), chart = CHARTS[name], main = name === 'loss';
  const axis = title => ({gridcolor: grid, zeroline: false, linecolor: grid, title: {text: title, font: {size: 12}}, automargin: true});
  const y = axis(main ? 'loss' : ''), revision = `${shown[0]} ${axisChoice.value}`;
  if (main && logScale.checked) y.type = 'log';
  if (chart.format) y.exponentformat = chart.format;
  if (chart.range) y.range = chart.range;
  if (chart.zero) y.rangemode = 'tozero';
  y.uirevision = `${revision} ${logScale.checked}`;
  return {uirevision: revision, height: chart.height, margin: {l: 46, r: 10, t: main ? 8 : 26, b: main ? 34 : 22},
    showlegend: main && shown.length < 2, legend: {orientation: 'h', x: 1, xanchor: 'right', y: 1.02, yanchor: 'bottom'},
    title: main ? undefined : {text: chart.title, font: {size: 12.5}, x: 0.02, y: 0.97},
    paper_bgcolor: 'transparent', plot_bgcolor: 'transparent', font: {color: css('--body-text-color'), size: 11.5,
    family: css('--font')}, hovermode: 'x unified', hoverlabel: {bgcolor: css('--block-background-fill')},
    xaxis: {...axis(main ? unit()[0] : ''), ...ticks(), automargin: main, hoverformat: axisChoice.value === 'time' ? '.2f' : ',.0f'}, yaxis: y};
}

function legend() {  // of several runs: letter, colour, dashes and mark of each, so that no colour has to be told apart
  const list = part('.run-legend'), dashes = ['', '7 4', '2 3', '7 3 2 3', '11 4', '11 3 2 3'];
  list.hidden = shown.length < 2;
  list.innerHTML = shown.map((id, place) => `<span title="${safe(id)}"><svg width="34" height="12" aria-hidden="true">
    <line x1="1" x2="33" y1="6" y2="6" stroke="${ink(place)}" stroke-width="2.2" stroke-dasharray="${dashes[place]}"/></svg>
    <b>${LETTERS[place]}</b> <i>${safe(short(id))}</i></span>`).join('');
}

function drawOne(name) {
  const place = box(name);
  if (place.hidden) { if (place.data) P.purge(place); return; }
  const fresh = !place.data;
  P.react(place, traces(name), layout(name), {responsive: true, displaylogo: false, showSendToCloud: false,
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']});
  if (fresh) {
    place.removeAllListeners?.('plotly_relayout');
    place.on('plotly_relayout', change => zoomed(name, change));
  }
}

function await_points(yes) {  // what is drawn is of another run
  awaiting = yes;
  for (const name of Object.keys(CHARTS)) box(name).classList.toggle('awaiting', yes);
}

function draw() {  // the loss at once, the small charts one by one behind it, so that the page answers in between
  const turn = ++drawing, left = Object.keys(CHARTS);
  const {curves} = runs[shown[0]] ?? empty();
  for (const name of left) box(name).hidden = name !== 'loss' && !curves[name];  // first: how many there are says how wide
  let spent = 0;
  const next = () => {
    if (turn !== drawing || !element.isConnected) return;
    const begun = performance.now();
    drawOne(left.shift());
    spent += performance.now() - begun;
    rest = performance.now() + Math.min(5000, 40 * spent);
    if (left.length) setTimeout(next);
  };
  await_points(false);
  next();
}

function zoomed(name, change) {  // the other charts show the same part, and the server is asked for all of its points
  const low = change['xaxis.range[0]'] ?? change['xaxis.range']?.[0], high = change['xaxis.range[1]'] ?? change['xaxis.range']?.[1];
  if (low === undefined && !change['xaxis.autorange']) return;
  const [, scale] = unit();
  const range = low === undefined ? null : [Number(low) * scale, Number(high) * scale];
  if (range?.join() === visible?.join()) return;  // the echo of what was set below
  visible = range;
  for (const other of Object.keys(CHARTS)) {
    if (other === name || !box(other).data) continue;
    P.relayout(box(other), visible ? {'xaxis.range': [low, high]} : {'xaxis.autorange': true, 'yaxis.autorange': !CHARTS[other].range});
  }
  clearTimeout(zooming);
  zooming = setTimeout(refine, 150);
}

function question(more) {
  return {axis: axisChoice.value, width: box('loss').clientWidth, small: box('learning_rate').clientWidth || 300,
          smoothing: weight(), ...more};
}

async function refine() {  // all points of the visible part, where some were left out
  const coarse = shown.filter(id => Object.values(runs[id].curves).some(curve => !curve.all));
  const range = visible, key = shown.join(' ') + axisChoice.value;
  for (const id of shown) runs[id].fine = {};
  if (range && coarse.length) {
    const said = await server.news(question({range, runs: shown.map(run => ({run}))}));
    if (range !== visible || key !== shown.join(' ') + axisChoice.value) return;
    for (const [id, news] of Object.entries(said ?? {})) {
      runs[id].fine = Object.fromEntries(Object.entries(news.curves).map(([name, sent]) => [name, taken(sent)]));
    }
  }
  draw();
}

function take(id, news) {
  const run = runs[id];
  if (news.whole) {
    run.curves = Object.fromEntries(Object.entries(news.curves).map(([name, sent]) => [name, taken(sent)]));
    run.warnings = news.warnings ?? [];
  } else {
    for (const [name, sent] of Object.entries(news.curves)) run.curves[name] = extend(run.curves[name], sent);
    run.warnings = news.warnings ?? run.warnings;
  }
  run.reading = news.reading;
  // a page that has been open for long has far more points than its plot has columns: the next answer is reduced anew
  const most = 2 * PER_BUCKET * Math.max(500, box('loss').clientWidth);
  run.have = (run.curves.loss?.x.length ?? 0) > most ? null : news.have;
  if (id === shown[0]) axisChoice.querySelector('[value=tokens]').disabled = !news.axes.includes('tokens');
}

function begin(now) {  // these runs are shown from here on
  if (now[0] !== shown[0]) { runs = {}; visible = null; }
  runs = Object.fromEntries(now.map(id => [id, runs[id] ?? empty()]));
  shown = now;
  part('.csv').href = now.length ? `runs/${now[0]}/metrics.csv` : '';
  legend();
}

// A run that the pointer comes to in the list is asked for ahead, and drawn as the button goes down: after that the page
// is busy with the rest of the tab for longer than the points take.
const listed = event => event.target.closest?.('#run [role=option]')?.getAttribute('aria-label');

function look(event) {
  const label = listed(event);
  if (!label || (label === ahead?.label && axisChoice.value === ahead.axis) || !element.offsetParent) return;
  const mine = ahead = {label, axis: axisChoice.value, news: null};
  mine.said = server.news(question({runs: [{label}]})).then(said => { mine.news = Object.entries(said ?? {})[0]; });
}

async function press(event) {
  if (!listed(event)) return;
  look(event);
  const mine = ahead;
  if (!mine) return;
  coming = mine;
  try { if (!mine.news) await mine.said; } finally { if (coming === mine) coming = null; }
  const [id, news] = mine.news ?? [];
  if (id && mine === ahead && shown[0] !== id) {
    chosen = props.value === id ? null : id;
    setTimeout(() => { if (chosen === id) { chosen = null; pull(); } }, 5000);  // the page did not follow
    begin(wanted());
    take(id, news);
    draw();
  }
  ahead = null;
  if (again) { again = false; pull(); }
}

async function pull() {
  if (busy || coming) { again = true; return; }
  if (document.visibilityState !== 'visible' || !element.offsetParent) return;
  busy = true;
  try {
    const now = wanted();
    if (now.join(' ') !== shown.join(' ')) {
      begin(now);
      if (shown.length) await_points(true); else draw();
    }
    if (!shown.length) return;
    const before = shown.join(' ') + axisChoice.value;
    const said = await server.news(question({runs: shown.map(run => ({run, have: runs[run].have}))}));
    if (before !== shown.join(' ') + axisChoice.value || wanted().join(' ') !== shown.join(' ')) { again = true; return; }
    if (!said) { status.textContent = 'The studio does not answer; trying again.'; return; }
    for (const [id, news] of Object.entries(said)) take(id, news);
    const reading = shown.map(id => runs[id].reading).find(Boolean);
    status.textContent = reading ? `Reading the run: ${Math.round(100 * reading[0] / reading[1])} %` : '';
    const fresh = Object.values(said).some(news => news.whole || news.warnings || Object.keys(news.curves).length);
    if (!fresh && !awaiting) return;
    draw();
    if (visible && Object.values(said).some(news => news.whole)) refine();
  } finally {
    busy = false;
    if (again) { again = false; pull(); }
  }
}

function afresh() {  // the same runs, asked for from the start
  for (const id of shown) runs[id].have = null;
  pull();
}

ema.addEventListener('input', () => {
  part('.ema-value').textContent = weight().toFixed(weight() < 0.99 ? 2 : 3);
  clearTimeout(resmoothing);
  // where points were left out the average is the server's: it goes over all of them
  if (shown.some(id => runs[id].curves.loss && !runs[id].curves.loss.all)) resmoothing = setTimeout(afresh, 250);
  else draw();
});
logScale.addEventListener('change', draw);
axisChoice.addEventListener('change', () => {
  for (const id of shown) runs[id] = empty();
  visible = null;
  pull();
});
let away = 0;  // seconds that the element has not been in the page; Gradio moves parts about while it draws one
const timer = setInterval(() => {
  away = element.isConnected ? 0 : away + 1;
  if (!away) return performance.now() < rest ? null : pull();
  if (away < 60) return;
  clearInterval(timer); colours.disconnect();
  document.removeEventListener('pointerover', look); document.removeEventListener('pointerdown', press, true);
  Object.keys(CHARTS).forEach(name => box(name) && P.purge(box(name)));
}, 1000);
const colours = new MutationObserver(() => { legend(); draw(); });
colours.observe(document.body, {attributes: true, attributeFilter: ['class']});
document.addEventListener('pointerover', look);
document.addEventListener('pointerdown', press, true);
watch('value', () => { chosen = null; pull(); });
watch('others', pull);
pull();
