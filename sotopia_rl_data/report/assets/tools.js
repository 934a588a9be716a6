// Small things that everything else is made of: elements, text that cannot mislead, numbers, colours, the tooltip.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'tip') tipped(node, value);
    else if (name === 'vars') for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(asText(node, child));
  return node;
}

const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
const svg = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

// Controls, and marks that turn the direction of what follows: shown by their number, never obeyed, whatever text it is
// that comes into the page. What people write into a box stays theirs.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

function asText(node, child) {
  if (typeof child !== 'string' || node.tagName === 'TEXTAREA') return child;
  return node.namespaceURI === SVG ? child.replace(HIDDEN, '\ufffd') : visible(child);
}

function visible(text) {
  const found = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    found.append(text.slice(from, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    found.append(el('span', { class: 'control' }, `U+${code}`));
    from = match.index + match[0].length;
  }
  found.append(text.slice(from));
  return found;
}

const oneLine = (text, most = 160) => {
  const flat = text.slice(0, 4 * most).replace(HIDDEN, '\ufffd').replace(/\s+/g, ' ').trim();
  return flat.length > most ? `${flat.slice(0, most - 1)}…` : flat;
};
const words = (name) => name.replaceAll('_', ' ');
const whole = (value) => value.toLocaleString('en-US');
const short = (value, digits = 3) => (value === null || value === undefined || Number.isNaN(value) ? '–' : value.toFixed(digits));
const isNumber = (value) => value !== null && value !== undefined && !Number.isNaN(value);

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!isNumber(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 1] : [low, high];
}

function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return values.length ? sum / values.length : null;
}

// From terracotta over grey to teal: told apart also by those who see no red or no green.
const STOPS = [[196, 85, 59], [221, 160, 132], [188, 184, 175], [118, 170, 163], [31, 122, 116]];
function blend(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const mixed = STOPS[low].map((one, i) => Math.round(one + (STOPS[low + 1][i] - one) * (at - low)));
  return `rgb(${mixed.join(' ')})`;
}
const PALETTE = ['#3b6fb6', '#c4772b', '#7a5fa8', '#3f8f5f', '#b8487a', '#5c7f8a', '#8f7a2e', '#a2553f'];
const AGENTS = ['#3b6fb6', '#c4772b', '#7a5fa8', '#3f8f5f', '#b8487a', '#5c7f8a'];

const tip = document.getElementById('tip');
function tipped(node, text) {
  node.addEventListener('pointermove', (event) => {
    tip.replaceChildren(visible(typeof text === 'function' ? text() : text));
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  });
  node.addEventListener('pointerleave', () => { tip.hidden = true; });
}

// A card of the grid: `body(card)` fills it and is called again when the filters change.
function card(width, title, lead, ...picks) {
  const body = el('div');
  const head = el('div', { class: 'head' }, el('h2', {}, title), picks.length ? el('div', { class: 'pick' }, picks) : null);
  return { node: el('article', { class: `card ${width}` }, head, el('p', { class: 'lead' }, lead), body), body };
}

function choice(labels, chosen, change) {
  const buttons = labels.map((label, i) => el('button', { type: 'button', onclick: () => pick(i) }, label));
  const pick = (i, tell = true) => {
    buttons.forEach((button, j) => button.setAttribute('aria-pressed', String(i === j)));
    if (tell) change(i);
  };
  pick(chosen, false);
  return buttons;
}

function menu(options, change, label) {
  const made = options.map(([value, text]) => el('option', { value }, text));
  return el('select', { 'aria-label': label, onchange: (event) => change(event.target.value) }, made);
}
