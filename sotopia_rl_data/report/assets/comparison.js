// The comparison's plots and tables. What they show is computed before; here it is only drawn, for one condition at a time.

const D = JSON.parse(document.getElementById('data').textContent);
const COLOURS = ['#3b6fb6', '#c4772b', '#7a5fa8', '#3f8f5f', '#b8487a', '#5c7f8a', '#8f7a2e', '#a2553f'];
const colourOf = (method) => COLOURS[D.methods.indexOf(method) % COLOURS.length];
const watchers = [];
let now = 0; // the condition

const condition = () => D.conditions[now];
const shareOf = (dimension, value) => (value - dimension.range[0]) / (dimension.range[1] - dimension.range[0]);

function keys(names) {
  return el('div', { class: 'keys' }, names.map((name) => el('span', {}, el('i', { vars: { background: colourOf(name) } }), name)));
}

// Each method's mean on each dimension, as a part of the dimension's range, with 1.96 standard errors.
function means() {
  const { node, body } = card('w7', 'Scores', 'Means over agents of episodes with 1.96 standard errors, each on its dimension’s range.');
  watchers.push(() => {
    const of = condition().means;
    const [width, line, left, right] = [fitting(640), 14 + 12 * of.length, 60, 40];
    const x = (part) => left + part * (width - left - right);
    const height = D.dimensions.length * line + 8;
    body.replaceChildren(keys(of.map((one) => one.method)), svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Mean scores' },
      D.dimensions.map((dimension, d) => {
        const top = d * line;
        return svg('g', {},
          svg('text', { class: 'value', x: left - 10, y: top + line / 2 + 4, 'text-anchor': 'end' }, dimension.short),
          svg('line', { class: 'axis', x1: x(0), x2: x(1), y1: top + line - 2, y2: top + line - 2 }),
          svg('text', { x: x(0), y: top + line / 2 + 4, 'text-anchor': 'start' }, short(dimension.range[0], dimension.name === 'average' ? 1 : 0)),
          svg('text', { x: x(1) + 6, y: top + line / 2 + 4 }, short(dimension.range[1], dimension.name === 'average' ? 1 : 0)),
          of.map((one, m) => {
            const value = one.means[dimension.name];
            if (!isNumber(value)) return null;
            const error = 1.96 * (one.errors[dimension.name] || 0);
            const y = top + (line - 2 - 12 * (of.length - 1)) / 2 + 12 * m;
            const ends = [value - error, value + error].map((v) => x(Math.min(Math.max(shareOf(dimension, v), 0), 1)));
            return svg('g', { tip: `${one.method}, ${words(dimension.name)}: ${short(value, 2)} ± ${short(error, 2)}\n${whole(one.units - one.missing[dimension.name])} scores, ${whole(one.missing[dimension.name])} missing` },
              svg('line', { x1: ends[0], x2: ends[1], y1: y, y2: y, stroke: colourOf(one.method), 'stroke-width': 4, 'stroke-linecap': 'round', opacity: 0.3 }),
              svg('circle', { cx: x(shareOf(dimension, value)), cy: y, r: 4.5, fill: colourOf(one.method) }));
          }));
      })));
  });
  return node;
}

// b − a on each dimension, with its interval; filled where it is significant.
function forest() {
  const { node, body } = card('w5', 'Differences', `In points, with ${Math.round(D.level * 100)} % intervals over ${D.resample}s. Filled: p < ${D.alpha} after Holm.`);
  watchers.push(() => {
    const { contrasts } = condition();
    if (!contrasts.some((one) => one.pairs)) { body.replaceChildren(el('p', { class: 'empty' }, 'There are no pairs under this condition.')); return; }
    const all = contrasts.flatMap((one) => one.effects).flatMap((e) => [e.low, e.high, e.difference]).filter(isNumber);
    const reach = Math.max(...all.map(Math.abs), 0.1) * 1.08;
    const [width, line, left, right] = [fitting(460), 14 + 12 * contrasts.length, 60, 20];
    const x = (value) => left + ((value + reach) / (2 * reach)) * (width - left - right);
    const height = D.dimensions.length * line + 22;
    body.replaceChildren(keys(contrasts.map((one) => one.b)), el('p', { class: 'lead' }, `against ${oneLine(contrasts[0].a, 60)}`), svg('svg', { class: 'forest', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Differences' },
      ticks(-reach, reach, 5).map((t) => svg('text', { x: x(t), y: height - 4, 'text-anchor': 'middle' }, tickText(t))),
      svg('line', { class: 'zero', x1: x(0), x2: x(0), y1: 0, y2: height - 18 }),
      D.dimensions.map((dimension, d) => svg('g', {},
        svg('text', { class: 'value', x: left - 10, y: d * line + line / 2 + 4, 'text-anchor': 'end' }, dimension.short),
        contrasts.map((one, c) => {
          const e = one.effects[d];
          if (!isNumber(e.difference)) return null;
          const y = d * line + (line - 12 * (contrasts.length - 1)) / 2 + 12 * c;
          const shade = colourOf(one.b);
          return svg('g', { tip: `${one.b} − ${one.a}, ${words(dimension.name)}\n${short(e.difference, 2)} (${short(e.low, 2)} to ${short(e.high, 2)}), ${whole(e.pairs)} pairs\nt ${short(e.t, 2)}, p ${probability(e.p)}, after Holm ${probability(e.adjusted)}, d ${short(e.effect, 2)}\nwins ${e.wins}, ties ${e.ties}, losses ${e.losses}` },
            svg('rect', { x: left, y: y - 6, width: width - left, height: 12, fill: 'transparent' }),
            isNumber(e.low) ? svg('line', { x1: x(e.low), x2: x(e.high), y1: y, y2: y, stroke: shade, 'stroke-width': 2 }) : null,
            svg('circle', { cx: x(e.difference), cy: y, r: 4.5, fill: e.significant ? shade : 'var(--surface)', stroke: shade, 'stroke-width': 2 }));
        })))));
  });
  return node;
}

const probability = (p) => (isNumber(p) ? (p < 0.001 ? p.toExponential(1) : p.toFixed(3)) : '–');

// Every figure of a contrast.
function effects() {
  const { node, body } = card('', 'Tests', 'Paired by environment, agents and position; two-sided paired t-test; d is Cohen’s d_z; a pair that ties is half a win.');
  watchers.push(() => {
    const shown = condition().contrasts.filter((one) => one.pairs);
    body.replaceChildren(...shown.map((one) => el('div', { class: 'scroll' },
      el('h3', {}, `${one.b} against ${one.a}`, el('span', { class: 'muted' }, `  ${whole(one.pairs)} pairs, without counterpart ${one.alone.map(whole).join(' and ')}${one.together ? '; both agents of an episode averaged' : ''}`)),
      el('table', {},
        el('tr', {}, ['dimension', 'pairs', one.a, one.b, 'difference', 'interval', 't', 'p', 'after Holm', 'd'].map((name, i) => el('th', { class: i ? 'num' : '' }, name)), el('th', {}, 'wins, ties, losses')),
        one.effects.map((e) => el('tr', {},
          el('td', {}, words(e.dimension)), el('td', { class: 'num' }, whole(e.pairs)),
          [short(e.mean_a, 2), short(e.mean_b, 2)].map((text) => el('td', { class: 'num' }, text)),
          el('td', { class: `num ${e.significant ? 'strong' : ''}` }, `${short(e.difference, 2)}${e.significant ? ' *' : ''}`),
          [isNumber(e.low) ? `${short(e.low, 2)} to ${short(e.high, 2)}` : '–', short(e.t, 2), probability(e.p), probability(e.adjusted), short(e.effect, 2)].map((text) => el('td', { class: 'num' }, text)),
          el('td', { tip: `${e.wins} wins, ${e.ties} ties, ${e.losses} losses` }, e.pairs ? el('div', { class: 'bar' }, [[e.wins, colourOf(one.b)], [e.ties, 'var(--line)'], [e.losses, colourOf(one.a)]].map(([n, shade]) => el('i', { vars: { '--w': `${(100 * n) / e.pairs}%`, '--c': shade } }))) : '–')))))));
    if (!shown.length) body.replaceChildren(el('p', { class: 'empty' }, 'Nothing is compared under this condition.'));
  });
  return node;
}

// A line a scenario, from one method's mean to the other's.
function scenarios() {
  let chosen = Math.max(D.dimensions.findIndex((one) => one.name === 'goal'), 0);
  const { node, body } = card('w6', 'By scenario', 'Means of both sides over the scenario’s pairs, the largest gain first.',
    menu(D.dimensions.map((one, d) => [String(d), one.short]), (value) => { chosen = Number(value); show(); }, 'dimension'));
  node.querySelector('select').value = String(chosen);
  const show = () => {
    const dimension = D.dimensions[chosen];
    body.replaceChildren(...condition().contrasts.filter((one) => one.pairs).map((one) => {
      const rows = one.scenarios.filter((s) => isNumber(s.a[dimension.name]) && isNumber(s.b[dimension.name]));
      rows.sort((p, q) => (q.b[dimension.name] - q.a[dimension.name]) - (p.b[dimension.name] - p.a[dimension.name]));
      const [width, line, left, right] = [fitting(560), 20, fitting(560) < 480 ? 130 : 190, 20];
      const x = (value) => left + shareOf(dimension, value) * (width - left - right);
      const height = rows.length * line + 20;
      return el('div', { class: 'scroll' }, keys([one.a, one.b]), svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': 'Scores by scenario' },
        ticks(dimension.range[0], dimension.range[1], 5).map((t) => [svg('line', { class: 'axis', x1: x(t), x2: x(t), y1: 0, y2: height - 18 }), svg('text', { x: x(t), y: height - 4, 'text-anchor': 'middle' }, tickText(t))]),
        rows.map((s, i) => {
          const y = i * line + line / 2;
          const [a, b] = [s.a[dimension.name], s.b[dimension.name]];
          return svg('g', { tip: `${s.codename}: ${short(a, 2)} → ${short(b, 2)} over ${whole(s.pairs)} pairs` },
            svg('rect', { x: 0, y: y - line / 2, width, height: line, fill: 'transparent' }),
            svg('text', { class: 'value', x: left - 10, y: y + 4, 'text-anchor': 'end' }, oneLine(s.codename, left < 190 ? 18 : 28)),
            svg('line', { x1: x(a), x2: x(b), y1: y, y2: y, stroke: b >= a ? colourOf(one.b) : colourOf(one.a), 'stroke-width': 3, opacity: 0.45 }),
            svg('circle', { cx: x(a), cy: y, r: 4.5, fill: colourOf(one.a) }),
            svg('circle', { cx: x(b), cy: y, r: 4.5, fill: colourOf(one.b) }));
        })));
    }));
    if (!body.childNodes.length) body.append(el('p', { class: 'empty' }, 'Nothing is compared under this condition.'));
  };
  watchers.push(show);
  return node;
}

// Tables as they come.
function grids() {
  return D.grids.map((grid) => {
    const { node, body } = card(grid.columns.length > 7 ? '' : 'w6', grid.title[0].toUpperCase() + grid.title.slice(1), '');
    const numeric = grid.columns.map((_, i) => grid.rows.some((row) => typeof row[i] === 'number' || /^-?\d/.test(row[i] || '')));
    const told = (value) => (typeof value === 'number' ? String(+value.toFixed(2)) : value === null ? '–' : String(value));
    const line = (tag, values) => el('tr', {}, values.map((value, i) => el(tag, { class: numeric[i] ? 'num' : '' }, told(value))));
    body.append(el('div', { class: 'scroll' }, el('table', {}, line('th', grid.columns), grid.rows.map((row) => line('td', row)))));
    return node;
  });
}

document.getElementById('head').append(
  el('h1', {}, D.methods.map((name, i) => [i ? ' · ' : '', el('span', { vars: { color: colourOf(name) } }, name)])),
  el('p', { class: 'sub' }, 'Agents compared by their episodes’ scores'),
  el('div', { class: 'facts' }, D.refs.map((ref) => el('span', { class: 'fact' }, el('b', {}, 'run'), ref))),
  D.remarks.map((text) => el('p', { class: 'banner' }, text)));

const bar = document.getElementById('bar');
const conditionMenu = menu(D.conditions.map((one, i) => [String(i), one.title]), (value) => { now = Number(value); watchers.forEach((watch) => watch()); }, 'condition');
conditionMenu.id = 'condition';
bar.append(el('div', { class: 'inner' },
  el('div', { class: 'links' }, [['overview', 'Scores'], ['trust', 'Tables'], ['dialogues', 'Dialogues']].map(([id, text]) => el('a', { href: `#${id}` }, text))),
  conditionMenu));
const measured = () => document.documentElement.style.setProperty('--bar', `${bar.offsetHeight}px`);
measured();
addEventListener('resize', measured);
document.getElementById('overview').append(means(), forest(), effects());
document.getElementById('trust').append(scenarios(), ...grids());
