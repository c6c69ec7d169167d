// Curves on the page: taking what the server sends, smoothing, and putting a finer part into its place. No drawing here.
const PER_BUCKET = 4;  // points that the server keeps for a column of pixels, at most

function places(packed) {  // whole numbers of a unit, each as its distance from the one before
  let at = packed.first;
  const found = [at * packed.unit];
  for (const step of packed.next) found.push((at += step) * packed.unit);
  return found;
}

function taken(sent) {  // a curve as the server sends it
  const curve = {x: places(sent.x), y: sent.y, all: sent.all};
  if (sent.smooth) curve.smooth = {x: places(sent.smooth.x), y: sent.smooth.y, last: sent.smooth.last, weight: sent.smooth.weight};
  return curve;
}

function smooth(values, weight) {  // exponential moving average, corrected for its start (Kingma & Ba 2015, section 3)
  let mean = 0, share = 0;
  return values.map(v => {
    if (v === null) return null;  // no number: a gap, over which the average goes on
    mean = weight * mean + (1 - weight) * v; share = weight * share + (1 - weight);
    return mean / share;
  });
}

function extend(curve, sent) {  // points that came after those of the curve
  const x = places(sent.x);
  if (!curve) return {x, y: sent.y, all: true};
  const longer = {...curve, x: curve.x.concat(x), y: curve.y.concat(sent.y)};
  if (curve.smooth) {
    let last = curve.smooth.last;
    const weight = curve.smooth.weight;
    const y = sent.y.map(v => v === null ? null : last = last === null ? v : weight * last + (1 - weight) * v);
    longer.smooth = {...curve.smooth, x: curve.smooth.x.concat(x), y: curve.smooth.y.concat(y), last};
  }
  return longer;
}

function below(x, value) {  // how many places are less than the value
  let low = 0, high = x.length;
  while (low < high) { const middle = (low + high) >> 1; if (x[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

function inserted(curve, fine) {  // the coarse curve with the finer part in its place
  if (!fine?.x.length) return curve;
  const from = below(curve.x, fine.x[0]);
  let to = below(curve.x, fine.x.at(-1));
  while (to < curve.x.length && curve.x[to] === fine.x.at(-1)) to++;
  return {x: [...curve.x.slice(0, from), ...fine.x, ...curve.x.slice(to)],
          y: [...curve.y.slice(0, from), ...fine.y, ...curve.y.slice(to)]};
}

function averaged(curve, weight, columns) {  // the moving average of a curve, made here if all its points are here
  if (!weight) return null;
  const scaled = weight ** Math.min(1, columns / curve.y.length);  // as the server does it: see points.py
  return curve.smooth ?? (curve.all ? {x: curve.x, y: smooth(curve.y, scaled)} : null);
}

function alone(y) {  // whether each value stands between gaps, so that no line goes to it
  return y.map((v, at) => v !== null && (y[at - 1] ?? null) === null && (y[at + 1] ?? null) === null);
}
