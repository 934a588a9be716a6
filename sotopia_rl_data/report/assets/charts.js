// Four kinds of picture, as SVG of our own. They know numbers and names, not what those are about.

const WIDE = { width: 640, height: 356, left: 40, right: 10, top: 10, bottom: 26 };

// The width of a picture that is at most `most` wide: on a phone the window's, so that its letters stay readable.
const fitting = (most) => (innerWidth < 720 ? Math.min(most, Math.max(innerWidth - 76, 240)) : most);

function ticks(low, high, about = 5) {
  const step = 10 ** Math.floor(Math.log10((high - low) / about || 1));
  const fit = [1, 2, 2.5, 5, 10].map((k) => k * step).find((s) => (high - low) / s <= about + 1) || step * 10;
  const found = [];
  for (let t = Math.ceil(low / fit - 1e-9) * fit; t <= high + fit * 1e-9; t += fit) found.push(Math.abs(t) < fit * 1e-9 ? 0 : t);
  return found;
}
const tickText = (value) => (Math.abs(value) >= 1000 ? `${value / 1000}k` : String(+value.toFixed(3)));

// How often each stretch of [low, high] occurs. `fillOf(middle)` colours a bar.
function histogram(values, [low, high], { bins = 24, fillOf, height = 150, width = 420, label = '' } = {}) {
  const span = high > low ? high - low : 1;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(Math.floor(((value - low) / span) * bins), bins - 1)] += 1;
  const top = Math.max(...counts, 1);
  const [left, right, above, below] = [34, 6, 8, 20];
  const x = (value) => left + ((value - low) / span) * (width - left - right);
  const y = (count) => height - below - (count / top) * (height - above - below);
  const bars = counts.map((count, i) => {
    const [from, to] = [low + (i / bins) * span, low + ((i + 1) / bins) * span];
    const wide = Math.max(x(to) - x(from) - 1.5, 1);
    const bar = svg('rect', { x: x(from) + 0.75, y: y(count), width: wide, height: height - below - y(count), rx: 2, fill: fillOf((from + to) / 2) });
    const whole_ = svg('rect', { x: x(from), y: above, width: wide + 1.5, height: height - above - below, fill: 'transparent', tip: `${short(from, 2)} to ${short(to, 2)}\n${whole(count)} utterances` });
    return [bar, whole_];
  });
  const middle = mean(values);
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
    svg('line', { class: 'axis', x1: left, x2: width - right, y1: height - below, y2: height - below }),
    ticks(0, top, 3).map((t) => svg('text', { x: left - 6, y: y(t) + 4, 'text-anchor': 'end' }, tickText(t))),
    bars,
    ticks(low, low + span, 5).map((t) => svg('text', { x: x(t), y: height - 4, 'text-anchor': 'middle' }, tickText(t))),
    middle === null ? null : svg('line', { class: 'mean', x1: x(middle), x2: x(middle), y1: above, y2: height - below }));
}

// Names against names. `cell(i, j)` gives { value, text, tip } or null; values run over [low, high].
function heatmap(names, cell, { low = -1, high = 1, label = '' } = {}) {
  const size = Math.max(Math.min(64, 460 / names.length), 34);
  const left = 10 + 6.6 * Math.max(...names.map((name) => Math.min(name.length, 26)));
  const foot = 14 + 4.9 * Math.max(...names.map((name) => Math.min(name.length, 26)));
  const squares = names.flatMap((_, i) => names.map((__, j) => {
    const found = cell(i, j);
    const [x, y] = [left + j * size, i * size];
    const at = found && isNumber(found.value) ? (found.value - low) / (high - low) : null;
    const strong = at !== null && Math.abs(at - 0.5) > 0.36;
    const fillWith = at === null ? 'var(--sunken)' : blend(at);
    return svg('g', { tip: found ? found.tip : names[i] },
      svg('rect', { x: x + 1.5, y: y + 1.5, width: size - 3, height: size - 3, rx: 7, fill: fillWith }),
      svg('text', { class: `value ${strong ? 'light' : 'dark'}`, x: x + size / 2, y: y + size / 2 + 4, 'text-anchor': 'middle' }, found ? found.text : ''));
  }));
  const cut = (name) => (name.length > 26 ? `${name.slice(0, 25)}…` : name);
  const width = left + names.length * size + 14;
  const made = svg('svg', { viewBox: `0 0 ${width} ${names.length * size + foot}`, role: 'img', 'aria-label': label },
    names.map((name, i) => svg('text', { class: 'value', x: left - 8, y: i * size + size / 2 + 4, 'text-anchor': 'end' }, cut(name))),
    squares,
    names.map((name, j) => svg('text', { class: 'value', transform: `translate(${left + j * size + size / 2 + 4} ${names.length * size + 14}) rotate(-38)`, 'text-anchor': 'end' }, cut(name))));
  made.style.maxWidth = `${width * 1.15}px`;
  return made;
}

// Lines with a band around each: series of { name, colour, strong, points: [{ x, y, low, high, n }] }.
function curves(series, { xLabel = '', label = '', unit = 'episodes' } = {}) {
  const { height, left, right, top, bottom } = WIDE;
  const width = fitting(WIDE.width);
  const all = series.flatMap((one) => one.points);
  if (!all.length) return el('p', { class: 'empty' }, 'Nothing to draw here.');
  const [x0, x1] = extent(all.map((p) => p.x));
  const [y0, y1] = extent(all.flatMap((p) => [p.low, p.high]));
  const pad = (y1 - y0 || 1) * 0.06;
  const [low, high] = [y0 - pad, y1 + pad];
  const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - top - bottom);
  const path = (points, key) => points.map((p, i) => `${i ? 'L' : 'M'}${x(p.x).toFixed(1)} ${y(p[key]).toFixed(1)}`).join('');
  const drawn = series.map((one) => {
    const back = [...one.points].reverse().map((p) => `L${x(p.x).toFixed(1)} ${y(p.low).toFixed(1)}`).join('');
    return svg('g', {},
      svg('path', { d: `${path(one.points, 'high')}${back}Z`, fill: one.colour, opacity: one.strong ? 0.16 : 0.09 }),
      svg('path', { d: path(one.points, 'y'), fill: 'none', stroke: one.colour, 'stroke-width': one.strong ? 3 : 1.7, 'stroke-linejoin': 'round' }),
      one.points.map((p) => svg('circle', { cx: x(p.x), cy: y(p.y), r: one.strong ? 3.2 : 2.2, fill: one.colour, tip: `${one.name}, ${xLabel} ${p.x}\n${short(p.y)} (${short(p.low, 2)} to ${short(p.high, 2)})\n${whole(p.n)} ${unit}` })));
  });
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label },
    ticks(low, high, 5).map((t) => [
      svg('line', { class: 'axis', x1: left, x2: width - right, y1: y(t), y2: y(t) }),
      svg('text', { x: left - 6, y: y(t) + 4, 'text-anchor': 'end' }, tickText(t)),
    ]),
    ticks(x0, x1, 10).map((t) => svg('text', { x: x(t), y: height - 8, 'text-anchor': 'middle' }, tickText(t))),
    drawn);
}

// Values with intervals, one a line: rows of { name, value, low, high, tip }.
function dots(rows, [low, high], { label = '' } = {}) {
  const width = fitting(560);
  const [line, left, right] = [26, width < 480 ? 120 : 230, 62];
  const x = (value) => left + ((Math.min(Math.max(value, low), high) - low) / (high - low || 1)) * (width - left - right);
  const height = rows.length * line + 24;
  return svg('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, vars: { 'max-width': `${width * 1.2}px` } },
    ticks(low, high, 5).map((t) => [
      svg('line', { class: 'axis', x1: x(t), x2: x(t), y1: 0, y2: height - 20 }),
      svg('text', { x: x(t), y: height - 6, 'text-anchor': 'middle' }, tickText(t)),
    ]),
    rows.map((row, i) => {
      const y = i * line + line / 2;
      return svg('g', { tip: row.tip },
        svg('rect', { x: 0, y: y - line / 2, width, height: line, fill: 'transparent' }),
        svg('text', { class: 'value', x: left - 12, y: y + 4, 'text-anchor': 'end' }, oneLine(row.name, left < 230 ? 16 : 34)),
        isNumber(row.low) ? svg('line', { x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: 'var(--accent)', 'stroke-width': 5, 'stroke-linecap': 'round', opacity: 0.3 }) : null,
        isNumber(row.value) ? svg('circle', { cx: x(row.value), cy: y, r: 5, fill: 'var(--accent)' }) : null,
        svg('text', { class: 'value', x: width - right + 12, y: y + 4 }, short(row.value)));
    }));
}
