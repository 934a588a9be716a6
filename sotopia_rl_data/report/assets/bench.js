// The bench's plots and tables. What they show is measured before; here it is only drawn.

const D = JSON.parse(document.getElementById('data').textContent);
const nameOf = (line) => [...new Set([line.judge, line.schema, line.rule])].filter(Boolean).join(' · ');
const told = D.lines.filter((line) => isNumber(line.tau.value));
const turns = D.utterances;

function accuracy() {
  const { node, body } = card('w7', 'Accuracy', 'Kendall’s tau-b with the true credit, over an agent’s turns, with 95 % intervals of resampled dialogues. Hover for the bound of the schema.');
  const rows = told.map((line) => ({
    name: nameOf(line), value: line.tau.value, low: line.tau.low, high: line.tau.high,
    tip: `${nameOf(line)}\ntau ${short(line.tau.value)} (${short(line.tau.low)} to ${short(line.tau.high)}), of ${short(line.ceiling_tau)}\npivotal turns found ${short(line.hit.value)}, of ${short(line.ceiling_hit)}\nright signs ${short(line.sign.value)}`,
  }));
  body.append(rows.length ? dots(rows, [-1, 1], { label: 'Accuracy' }) : el('p', { class: 'empty' }, 'No method orders any turns.'));
  return node;
}

// Where calls are known, each method by how many calls a turn it took. A rule that asks nobody stands at 0.
function cost() {
  const { node, body } = card('w5', 'Accuracy against cost', 'Tau by calls for each utterance; the further left and up, the better.');
  const shown = told.filter((line) => isNumber(line.calls));
  const at = (line) => line.calls / turns;
  const [width, height, left, right, below] = [fitting(460), 300, 40, 16, 34];
  const most = Math.max(...shown.map(at), 0.01);
  const values = shown.map((line) => line.tau.value);
  const [low, high] = [Math.min(0, ...values) - 0.05, Math.max(0, ...values) + 0.05];
  const x = (calls) => left + (calls / most) * (width - left - right);
  const y = (tau) => height - below - ((tau - low) / (high - low)) * (height - below - 10);
  body.append(svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Accuracy against cost' },
    ticks(low, high, 5).map((t) => [
      svg('line', { class: 'axis', x1: left, x2: width - right, y1: y(t), y2: y(t) }),
      svg('text', { x: left - 6, y: y(t) + 4, 'text-anchor': 'end' }, tickText(t)),
    ]),
    ticks(0, most, 5).map((t) => svg('text', { x: x(t), y: height - 16, 'text-anchor': 'middle' }, tickText(t))),
    shown.map((line, i) => svg('circle', {
      cx: x(at(line)), cy: y(line.tau.value), r: 5, fill: PALETTE[i % PALETTE.length], opacity: 0.85,
      tip: `${nameOf(line)}\ntau ${short(line.tau.value)}\n${whole(line.calls)} calls, ${short(at(line))} a turn${isNumber(line.usd) ? `, ${short(line.usd, 4)} USD` : ''}`,
    }))));
  return node;
}

function sizes() {
  const names = told.map((line, i) => [String(i), nameOf(line)]);
  const { node, body } = card('w5', 'Calibration of size', 'How much a turn is said to have mattered, and how much it did, in points: tenths of the turns by the size of their credit. On the grey line sizes are right.',
    menu(names, (value) => draw(Number(value)), 'Method'));
  const draw = (i) => {
    const line = told[i];
    const points = line.sizes.map(([said, true_, n]) => ({ x: said, y: true_, low: true_, high: true_, n }));
    const ends = [0, Math.max(...points.flatMap((p) => [p.x, p.y]))];
    const right = ends.map((v) => ({ x: v, y: v, low: v, high: v, n: 0 }));
    body.replaceChildren(curves([
      { name: 'right', colour: 'var(--muted)', points: right },
      { name: nameOf(line), colour: PALETTE[0], strong: true, points },
    ], { xLabel: 'said', label: 'Calibration of size', unit: 'utterances' }), el('p', { class: 'lead' }, `Off by ${short(line.calibration, 2)} points on average.`));
  };
  if (told.length) draw(0);
  return node;
}

// The mean error by place, length and wording, against the method's own mean: what stands out is not reading.
function errors() {
  const { node, body } = card('w12', 'Where it errs', 'Mean error in standard deviations, by third of the dialogue, by length and by wording; the last columns say what the errors go with (correlation).');
  const kinds = ['position', 'length', 'wording'].flatMap((by) => [...new Set(told.flatMap((line) => Object.keys(line.errors[by] || {})))].map((kind) => [by, kind]));
  const leans = [...new Set(told.flatMap((line) => Object.keys(line.leans)))];
  const errorOf = (line, [by, kind]) => (line.errors[by] || {})[kind];
  const largest = Math.max(...told.flatMap((line) => kinds.map((kind) => errorOf(line, kind) || 0)), 1);
  const cell = (value, part) => el('td', { class: 'number', vars: isNumber(value) ? { background: `color-mix(in srgb, ${blend(1 - part)} 35%, transparent)` } : {} }, short(value, 2));
  body.append(el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, el('th', {}, 'method'), kinds.map(([by, kind]) => el('th', {}, `${by}: ${kind}`)), leans.map((name) => el('th', {}, `goes with ${name}`)))),
    el('tbody', {}, told.map((line) => el('tr', {}, el('td', {}, nameOf(line)),
      kinds.map((kind) => cell(errorOf(line, kind), (errorOf(line, kind) || 0) / largest)),
      leans.map((name) => cell(line.leans[name].value, Math.abs(line.leans[name].value || 0)))))))));
  return node;
}

function points() {
  const { node, body } = card('w7', 'Checklist', 'What a report about credit should say (after arXiv 2604.09459), filled in from this bench.');
  body.append(el('table', {}, el('tbody', {}, D.checklist.map(([question, answer]) => el('tr', {}, el('td', { class: 'strong' }, question), el('td', {}, answer))))));
  return node;
}

document.getElementById('head').append(
  el('h1', {}, 'How right credit is'),
  el('p', { class: 'sub' }, `${D.games}${D.labels.length ? `, ${D.labels.join(', ')}` : ''}`),
  el('div', { class: 'tiles' }, [['episodes', D.episodes], ['utterances', D.utterances], ['methods', D.lines.length]].map(([name, n]) => el('div', { class: 'tile' }, el('b', {}, whole(n)), el('span', {}, name)))));
document.getElementById('bar').remove();
document.getElementById('overview').append(accuracy(), cost(), sizes(), points(), errors());
document.documentElement.dataset.ready = 'yes';
