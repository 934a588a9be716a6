// The form: one dialogue at a time, a number for each agent and dimension, and a CSV at the end. Nothing leaves the page
// but through the button; what was filled in is remembered by this browser where it allows that.

const D = JSON.parse(document.getElementById('data').textContent);
const KEPT = `sotopia-rl-data ${D.form}`;
let at = 0;
let said = recalled(); // "item agent dimension" -> { score, comment }

function recalled() {
  try { return JSON.parse(localStorage.getItem(KEPT)) || {}; } catch { return {}; }
}
function remember() {
  try { localStorage.setItem(KEPT, JSON.stringify(said)); } catch { /* a browser that keeps nothing: the CSV is all there is */ }
}
const keyOf = (item, agent, dimension) => `${item.item} ${agent.key} ${dimension.name}`;
const scored = (key) => said[key] && isNumber(said[key].score);
const allOf = (item) => item.rated.flatMap((k) => D.dimensions.map((dimension) => keyOf(item, item.agents[k], dimension)));
const WANTED = D.items.flatMap(allOf).length;

function csv() {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = D.items.flatMap((item) => item.rated.flatMap((k) => D.dimensions.map((dimension) => {
    const one = said[keyOf(item, item.agents[k], dimension)] || {};
    return [item.item, item.agents[k].key, dimension.name, isNumber(one.score) ? String(one.score) : '', one.comment || ''];
  })));
  return [D.columns, ...rows].map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

function save() {
  const link = el('a', { href: URL.createObjectURL(new Blob([csv()], { type: 'text/csv' })), download: `scores-${D.form}.csv` });
  document.body.append(link);
  link.click();
  link.remove();
}

const counted = el('output', { id: 'done' });
const place = el('b', {});
function count() {
  const done = D.items.flatMap(allOf).filter(scored).length;
  counted.textContent = `${whole(done)} of ${whole(WANTED)} scores, ${whole(D.items.filter((item) => allOf(item).every(scored)).length)} of ${whole(D.items.length)} dialogues`;
}

function go(step) {
  at = Math.min(Math.max(at + step, 0), D.items.length - 1);
  show();
  scrollTo(0, 0);
}

function utterance(item, [who, number, action, text, to]) {
  const note = { none: 'does nothing', leave: 'leaves the conversation' }[action] || (action === 'speak' ? '' : `[${action}] `);
  return el('div', { class: `turn ${who % 2 ? 'right' : ''}` },
    el('div', { class: 'who' }, el('i', { vars: { background: AGENTS[who % AGENTS.length] } }), el('span', { dir: 'auto' }, item.agents[who].name), `turn ${number}`, to.length ? `to ${to.join(', ')} alone` : null),
    el('div', { class: 'said', vars: { '--c': AGENTS[who % AGENTS.length] } }, el('span', { class: `words ${action === 'speak' ? '' : 'act'}`, dir: 'auto' }, note, text)));
}

function person(agent, k) {
  const known = [['Background', agent.background], ['Goal', agent.goal], ['Secret', agent.secret]].filter(([, text]) => text);
  return el('div', { class: 'person' }, el('b', {}, el('i', { vars: { background: AGENTS[k % AGENTS.length] } }), el('span', { dir: 'auto' }, agent.name)),
    known.map(([title, text]) => el('p', { dir: 'auto' }, el('span', { class: 'muted' }, `${title}: `), text)));
}

function question(item, agent, dimension) {
  const key = keyOf(item, agent, dimension);
  const one = () => (said[key] ||= {});
  const levels = Array.from({ length: dimension.high - dimension.low + 1 }, (_, i) => dimension.low + i);
  return el('fieldset', {}, el('legend', {}, words(dimension.name)),
    el('p', { class: 'about' }, dimension.about),
    el('div', { class: 'levels' }, levels.map((level) => {
      const box = el('input', { type: 'radio', name: key, value: String(level), checked: scored(key) && said[key].score === level, onchange: () => { one().score = level; remember(); count(); } });
      return el('label', {}, box, el('span', {}, String(level)));
    })),
    el('textarea', { rows: 1, placeholder: 'why (if you like)', 'aria-label': `Why: ${words(dimension.name)}`, 'data-key': key, oninput: (event) => { one().comment = event.target.value; remember(); } }, (said[key] || {}).comment || ''));
}

function show() {
  const item = D.items[at];
  place.textContent = `Dialogue ${at + 1} of ${D.items.length}`;
  document.getElementById('dialogues').replaceChildren(el('div', { id: 'form' },
    el('article', { class: 'card' },
      el('p', { class: 'scene', dir: 'auto' }, item.scenario, item.relationship ? el('span', { class: 'muted' }, `  (${item.relationship})`) : null),
      el('div', { class: 'cast' }, item.agents.map(person)),
      el('div', { class: 'turns' }, item.turns.map((turn) => utterance(item, turn)))),
    el('article', { class: 'card', id: 'rate' }, item.rated.map((k) => [
      el('h2', {}, item.agents[k].name), D.dimensions.map((dimension) => question(item, item.agents[k], dimension))]))));
  count();
}

document.getElementById('head').append(
  el('h1', {}, D.title),
  el('p', { class: 'sub' }, 'Read each dialogue to its end, then score every agent that is asked about, on each dimension by itself. You see everything, also what the agents did not see of each other. Leave open what you cannot say. When you stop, save the scores; you can come back to this page in the same browser.'));
const bar = document.getElementById('bar');
bar.append(el('div', { class: 'inner' },
  el('button', { class: 'plain', id: 'back', type: 'button', onclick: () => go(-1) }, '← back'), place,
  el('button', { class: 'plain', id: 'next', type: 'button', onclick: () => go(1) }, 'next →'), counted,
  el('button', { id: 'save', type: 'button', onclick: save }, 'Save the scores')));
const measured = () => document.documentElement.style.setProperty('--bar', `${bar.offsetHeight}px`);
measured();
addEventListener('resize', measured);
for (const id of ['overview', 'trust']) document.getElementById(id).remove();
document.getElementById('dialogues').style.display = 'block';
document.getElementById('dialogues').style.height = 'auto';
show();
document.documentElement.dataset.ready = 'yes';
