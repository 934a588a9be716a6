// The cards: distributions, curves and correlations follow the filters; agreement, failures and cost are about all rows.

function distributions() {
  let raw = false;
  const { node, body } = card('w7', 'Dimensions', 'How each dimension is distributed; the dotted line is the mean.',
    ...choice(['normalised', 'as attributed'], 0, (i) => { raw = i === 1; show(); }));
  const reward = card('w5', 'Reward', 'The scalar that a policy is trained on.');
  const show = () => {
    const rewards = picked(U.reward);
    reward.body.replaceChildren(rewards.length
      ? histogram(rewards, REWARDS, { bins: 30, fillOf: colour, height: 235, width: fitting(480), label: 'Distribution of rewards' })
      : el('p', { class: 'empty' }, 'No utterance with a reward fits the filters.'));
    if (rewards.length) reward.body.append(el('p', { class: 'lead' }, `mean ${short(mean(rewards))} over ${whole(rewards.length)} utterances`));
    const columns = raw ? U.raw : U.norm;
    body.replaceChildren(el('div', { class: 'many' }, D.dimensions.map((name, d) => {
      const values = picked(columns[d]);
      const range = raw ? extent(columns[d]) : extent([0, 1, ...columns[d]]);
      return el('div', { class: 'small' },
        el('h3', {}, words(name), el('span', {}, values.length ? `mean ${short(mean(values), 2)}` : 'no values')),
        histogram(values, range, { bins: 18, fillOf: () => dimensionColour(d), height: D.dimensions.length > 3 ? 112 : 246, width: D.dimensions.length === 1 ? 640 : 260, label: `Distribution of ${words(name)}` }));
    })));
  };
  watchers.push(show);
  return [reward.node, node];
}

function positions() {
  let relative = false;
  const shown = new Set(['reward']);
  const { node, body } = card('w7', 'Position in the dialogue', 'Mean over episodes, with 95 % intervals. A judge that only reads the clock shows here.',
    ...choice(['by turn', 'by tenth'], 0, (i) => { relative = i === 1; show(); }));
  const last = ROWS.map((rows) => Math.max(...rows.map((i) => U.turn[i]), 1));
  // An episode counts once at each position: its utterances are not independent.
  const points = (column) => {
    const groups = new Map();
    for (let i = 0; i < COUNT; i += 1) {
      if (!matching[i] || !isNumber(column[i])) continue;
      const at = relative ? Math.min(Math.floor((U.turn[i] / last[U.episode[i]]) * 10) + 1, 10) : U.turn[i];
      if (!groups.has(at)) groups.set(at, new Map());
      const [n, sum] = groups.get(at).get(U.episode[i]) || [0, 0];
      groups.get(at).set(U.episode[i], [n + 1, sum + column[i]]);
    }
    return [...groups].filter(([, of]) => of.size > 1).sort(([a], [b]) => a - b).map(([at, of]) => {
      const values = [...of.values()].map(([n, sum]) => sum / n);
      const middle = mean(values);
      const squares = values.reduce((total, value) => total + (value - middle) ** 2, 0);
      const error = 1.96 * Math.sqrt(squares / (values.length - 1) / values.length);
      return { x: at, y: middle, low: middle - error, high: middle + error, n: values.length };
    });
  };
  const all = [['reward', U.reward, 'var(--accent)'], ...D.dimensions.map((name, d) => [name, U.norm[d], dimensionColour(d)])];
  const legend = el('div', { class: 'legend' }, all.map(([name, , shade]) => {
    const button = el('button', { type: 'button', 'aria-pressed': String(shown.has(name)), onclick: () => {
      if (shown.has(name)) shown.delete(name); else shown.add(name);
      button.setAttribute('aria-pressed', String(shown.has(name)));
      show();
    } }, el('i', { vars: { background: shade } }), words(name));
    return button;
  }));
  const show = () => {
    const series = all.filter(([name]) => shown.has(name)).map(([name, column, shade]) => (
      { name: words(name), colour: shade, strong: name === 'reward', points: points(column) }));
    body.replaceChildren(curves(series, { xLabel: relative ? 'tenth' : 'turn', label: 'Mean by position' }), legend);
  };
  watchers.push(show);
  return [node];
}

function correlation(a, b) {
  let [n, sa, sb, saa, sbb, sab] = [0, 0, 0, 0, 0, 0];
  for (let i = 0; i < COUNT; i += 1) {
    if (!matching[i] || !isNumber(a[i]) || !isNumber(b[i])) continue;
    n += 1; sa += a[i]; sb += b[i]; saa += a[i] * a[i]; sbb += b[i] * b[i]; sab += a[i] * b[i];
  }
  const [va, vb] = [saa - (sa * sa) / n, sbb - (sb * sb) / n];
  return { n, r: n > 2 && va > 1e-9 * saa && vb > 1e-9 * sbb ? (sab - (sa * sb) / n) / Math.sqrt(va * vb) : null };
}

function correlations() {
  const { node, body } = card('w5', 'Correlations', 'Pearson’s r over utterances. Turn and words show what a judge should not follow.');
  const all = [['reward', U.reward], ...D.dimensions.map((name, d) => [words(name), U.norm[d]]), ['turn', U.turn], ['words', LENGTH]];
  watchers.push(() => {
    body.replaceChildren(heatmap(all.map(([name]) => name), (i, j) => {
      if (i === j) return null;
      const { n, r } = correlation(all[i][1], all[j][1]);
      return { value: r, text: short(r, 2), tip: `${all[i][0]} and ${all[j][0]}\nr = ${short(r)} over ${whole(n)} utterances` };
    }, { label: 'Correlations' }));
  });
  return [node];
}

function agreementCards() {
  const A = D.agreement;
  if (!A) return [];
  let [measure, dimension] = [A.measures[0][0], A.dimensions[0]];
  const picks = [
    menu(A.measures, (value) => { measure = value; show(); }, 'measure'),
    menu(A.dimensions.map((name) => [name, words(name)]), (value) => { dimension = value; show(); }, 'dimension'),
  ];
  const matrix = card('w5', 'Agreement', 'Between any two opinions, over all rows.', ...picks);
  const pairs = card('w7', 'Pair by pair', 'With 95 % intervals from resampled episodes.');
  const limits = () => {
    if (measure === 'pair_accuracy') return [0, 1];
    if (measure !== 'mean_difference') return [-1, 1];
    const reach = Math.max(...A.cells[dimension].flatMap((cell) => cell[measure].filter(isNumber).map(Math.abs)), 0.01);
    return [-reach, reach];
  };
  const told = (cell) => `${A.names[cell.a]} – ${A.names[cell.b]}\n${short(cell[measure][0])} (${short(cell[measure][1], 2)} to ${short(cell[measure][2], 2)})\n${whole(cell.n)} labels in common`;
  const show = () => {
    const cells = A.cells[dimension];
    const [low, high] = limits();
    matrix.body.replaceChildren(heatmap(A.names, (i, j) => {
      const cell = cells.find((one) => (one.a === i && one.b === j) || (one.a === j && one.b === i));
      if (i === j || !cell) return null;
      const value = measure === 'mean_difference' && cell.a === j && isNumber(cell[measure][0]) ? -cell[measure][0] : cell[measure][0];
      return { value, text: short(value, 2), tip: told(cell) };
    }, { low, high, label: 'Agreement' }));
    const together = A.together[dimension];
    if (A.names.length > 2 && together) matrix.body.append(el('p', { class: 'lead' }, `All together: Krippendorff’s α ${short(together[0])} (${short(together[1], 2)} to ${short(together[2], 2)})`));
    const rows = cells.map((cell) => ({ name: `${A.names[cell.a]} – ${A.names[cell.b]}`, value: cell[measure][0], low: cell[measure][1], high: cell[measure][2], tip: told(cell) }));
    const [from, to] = extent([...rows.flatMap((row) => [row.low, row.value, row.high]), measure === 'pair_accuracy' ? 0.5 : 0, ...(measure === 'mean_difference' ? [] : [1])]);
    pairs.body.replaceChildren(el('div', { class: 'scroll' }, dots(rows, [from, to], { label: 'Agreement pair by pair' })));
  };
  show();
  return [matrix.node, pairs.node];
}

function failureCard() {
  if (!D.failures.length) return [];
  const { node, body } = card('w6', 'What has no label', 'Failures by reason; none of them became a number.');
  const most = Math.max(...D.failures.map(([, n]) => n), 1);
  body.append(el('div', { class: 'scroll' }, el('table', {}, D.failures.map(([reason, n]) => el('tr', {},
    el('td', { dir: 'auto' }, reason), el('td', { class: 'num' }, whole(n)),
    el('td', {}, el('div', { class: 'meter', vars: { width: `${(100 * n) / most}px` } })))))));
  return [node];
}

function billCard() {
  const told = (value) => (isNumber(value) ? whole(value) : '–');
  const columns = [['calls', told], ['input', told], ['cached', told], ['output', told], ['USD', (value) => (isNumber(value) ? value.toFixed(2) : '–')]]
    .filter(([name]) => D.bill.some((one) => isNumber(one[name.toLowerCase()])));
  if (!columns.length) return [];
  const { node, body } = card('w6', 'Cost', 'What the labels took, answers that failed included.');
  body.append(el('div', { class: 'scroll' }, el('table', {},
    el('tr', {}, el('th', {}, 'judge'), columns.map(([name]) => el('th', { class: 'num' }, name))),
    D.bill.map((one) => el('tr', {},
      el('td', {}, one.judge, one.models && one.models !== one.judge ? el('div', { class: 'muted' }, one.models) : null),
      columns.map(([name, show]) => el('td', { class: 'num' }, show(one[name.toLowerCase()]))))))));
  return [node];
}
