// The live charts of one run. The page asks the server for what is new since its cursor and keeps the points itself, so
// a tick costs a few bytes, and zoom stays (uirevision). `props.value` is the id of the run that is shown.
const P = window.Plotly;
const box = name => element.querySelector(`[data-chart="${name}"]`);
const status = element.querySelector('.chart-status');
const ema = element.querySelector('.ema'), logScale = element.querySelector('.log-scale');
const css = name => getComputedStyle(element).getPropertyValue(name).trim();
let shown = null, cursor = null, curves = {}, busy = false;
let rest = 0;  // no news are asked for before this time: drawing takes at most a fortieth of the page's time

const CHARTS = {
  loss: {height: 300, series: ['loss', 'eval_loss']},
  learning_rate: {height: 150, series: ['learning_rate'], title: 'learning rate'},
  grad_norm: {height: 150, series: ['grad_norm'], title: 'gradient norm'},
  tokens_per_second: {height: 150, series: ['tokens_per_second'], title: 'tokens/s'},
};

function smooth(values, weight) {  // exponential moving average, corrected for its start (Kingma & Ba 2015, section 3)
  let mean = 0, share = 0;
  return values.map(v => {
    mean = weight * mean + (1 - weight) * v; share = weight * share + (1 - weight);
    return mean / share;
  });
}

function traces(name) {
  const line = (series, label, color, more) => ({
    x: curves[series]?.[0] ?? [], y: curves[series]?.[1] ?? [], name: label, type: 'scatter', mode: 'lines',
    line: {color, width: 1.8}, hovertemplate: `step %{x}<br>${label} %{y:.5g}<extra></extra>`, ...more});
  if (name !== 'loss') return [line(name, CHARTS[name].title, css('--color-accent'))];
  const weight = Number(ema.value), raw = line('loss', 'training loss', css('--tuned'), {});
  const validation = line('eval_loss', 'validation loss', css('--validation'), {
    mode: 'lines+markers', marker: {symbol: 'diamond', size: 7}, line: {color: css('--validation'), width: 1.8, dash: 'dot'}});
  if (!weight) return [raw, validation];
  return [{...raw, opacity: 0.3, name: 'training loss, raw'},
          {...raw, y: smooth(raw.y, weight), name: 'training loss, smoothed'}, validation];
}

function layout(name) {
  const grid = css('--border-color-primary'), chart = CHARTS[name];
  const axis = title => ({gridcolor: grid, zeroline: false, linecolor: grid, title: {text: title, font: {size: 12}}, automargin: true});
  const y = axis(name === 'loss' ? 'loss' : '');
  if (name === 'loss' && logScale.checked) y.type = 'log';
  if (name === 'learning_rate') y.exponentformat = 'e';
  return {uirevision: shown, height: chart.height, margin: {l: 46, r: 10, t: name === 'loss' ? 8 : 26, b: 34},
    showlegend: name === 'loss', legend: {orientation: 'h', x: 1, xanchor: 'right', y: 1.02, yanchor: 'bottom'},
    title: name === 'loss' ? undefined : {text: chart.title, font: {size: 12.5}, x: 0.02, y: 0.97},
    paper_bgcolor: 'transparent', plot_bgcolor: 'transparent', font: {color: css('--body-text-color'), size: 11.5,
    family: css('--font')}, hovermode: 'x unified', hoverlabel: {bgcolor: css('--block-background-fill')},
    xaxis: axis(name === 'loss' ? 'step' : ''), yaxis: y};
}

function draw() {
  for (const name of Object.keys(CHARTS)) {
    P.react(box(name), traces(name), layout(name), {responsive: true, displaylogo: false, showSendToCloud: false,
      modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']});
  }
}

async function pull() {
  if (busy || document.visibilityState !== 'visible' || !element.offsetParent) return;
  busy = true;
  try {
    const run = props.value;
    if (run !== shown) { shown = run; cursor = null; curves = {}; draw(); }
    if (!run) return;
    const news = await server.points({run, cursor});
    if (run !== props.value) return;
    if (!news) { status.textContent = 'The studio does not answer; trying again.'; return; }
    status.textContent = '';
    let changed = false;
    for (const [name, [from, steps, values]] of Object.entries(news.curves)) {
      const old = curves[name] ?? [[], []];
      curves[name] = [old[0].slice(0, from).concat(steps), old[1].slice(0, from).concat(values)];
      changed = true;
    }
    cursor = news.cursor;
    if (!changed) return;
    const before = performance.now();
    draw();
    rest = performance.now() + Math.min(5000, 40 * (performance.now() - before));
  } finally { busy = false; }
}

ema.addEventListener('input', () => { element.querySelector('.ema-value').textContent = Number(ema.value).toFixed(2); draw(); });
logScale.addEventListener('change', draw);
const timer = setInterval(() => {
  if (element.isConnected) return performance.now() < rest ? null : pull();
  clearInterval(timer); colours.disconnect();
  Object.keys(CHARTS).forEach(name => box(name) && P.purge(box(name)));
}, 1000);
const colours = new MutationObserver(draw);
colours.observe(document.body, {attributes: true, attributeFilter: ['class']});
watch('value', pull);
pull();
