// The list beside the dialogue: episodes or utterances, of which only those in view are elements.

const HEIGHT = 72;
const listBox = el('div', { id: 'list', role: 'listbox', tabindex: 0, 'aria-label': 'Episodes' });
const sizer = el('div', { class: 'sizer' });
listBox.append(sizer);
let entries = [];
let byUtterance = false;
let order = 'dialogue';
let selected = -1; // an episode, or an utterance

const ORDERS = {
  dialogue: [['in order', (a, b) => a.at - b.at]],
  low: [['lowest reward', (a, b) => less(a.reward, b.reward)]],
  high: [['highest reward', (a, b) => less(b.reward, a.reward, true)]],
  apart: [['most disputed', (a, b) => less(b.apart, a.apart, true)]],
};
function less(a, b, down = false) {
  if (isNumber(a) && isNumber(b)) return a - b;
  return (isNumber(a) ? -1 : 0) + (isNumber(b) ? 1 : 0) === 0 ? 0 : (isNumber(a) ? -1 : 1) * (down ? -1 : 1);
}

function listed() {
  const found = [];
  if (byUtterance) {
    for (let i = 0; i < COUNT; i += 1) if (matching[i]) found.push({ at: i, reward: U.reward[i], apart: U.disagreement[i] });
  } else {
    ROWS.forEach((rows, e) => {
      const mine = rows.filter((i) => matching[i]);
      if (!mine.length) return;
      const rewards = mine.map((i) => U.reward[i]).filter(isNumber);
      const apart = mine.map((i) => U.disagreement[i]).filter(isNumber);
      found.push({ at: e, reward: mean(rewards), apart: mean(apart), n: mine.length });
    });
  }
  found.sort((a, b) => ORDERS[order][0][1](a, b) || a.at - b.at);
  entries = found;
  sizer.style.height = `${entries.length * HEIGHT}px`;
  listBox.scrollTop = Math.min(listBox.scrollTop, Math.max(entries.length * HEIGHT - listBox.clientHeight, 0));
  inView();
}

function inView() {
  const first = Math.max(Math.floor(listBox.scrollTop / HEIGHT) - 3, 0);
  const last = Math.min(Math.ceil((listBox.scrollTop + (listBox.clientHeight || 600)) / HEIGHT) + 3, entries.length);
  const rows = [];
  for (let k = first; k < last; k += 1) rows.push(row(entries[k], k));
  sizer.replaceChildren(...(rows.length ? rows : [el('p', { class: 'empty back' }, 'Nothing fits the filters.')]));
}

function chip(reward) {
  return isNumber(reward) ? el('span', { class: 'chip', vars: { '--c': colour(reward) } }, short(reward, 2)) : el('span', { class: 'chip none' }, 'none');
}

function row(entry, k) {
  const chosen = entry.at === selected;
  const props = { class: 'row', type: 'button', role: 'option', tabindex: -1, 'aria-selected': String(chosen), vars: { top: `${k * HEIGHT}px`, height: `${HEIGHT}px` }, onclick: () => choose(k) };
  if (byUtterance) {
    return el('button', props,
      el('span', { class: 'name' }, oneLine(agentOf(entry.at).name), el('span', { class: 'muted' }, ` · turn ${U.turn[entry.at]}`)),
      chip(entry.reward),
      el('span', { class: 'line', dir: 'auto' }, oneLine(U.text[entry.at]) || words(D.actions[U.action[entry.at]])));
  }
  return el('button', props,
    el('span', { class: 'name' }, oneLine(titleOf(entry.at))),
    chip(entry.reward),
    el('span', { class: 'line' }, oneLine(`${E.agents[entry.at].map((a) => a.name).join(', ')} · ${entry.n} of ${ROWS[entry.at].length} turns`)),
    strip(entry.at));
}

// One mark a turn, in the colour of its reward.
function strip(episode) {
  const rows = ROWS[episode];
  const wide = 100 / rows.length;
  return svg('svg', { viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    rows.map((i, k) => svg('rect', { x: k * wide, y: 0, width: wide * 0.86, height: 8, fill: colour(U.reward[i]) || 'var(--line)', opacity: matching[i] ? 1 : 0.25 })));
}

function choose(k) {
  if (k < 0 || k >= entries.length) return;
  selected = entries[k].at;
  const top = k * HEIGHT;
  if (top < listBox.scrollTop) listBox.scrollTop = top;
  else if (top + HEIGHT > listBox.scrollTop + listBox.clientHeight) listBox.scrollTop = top + HEIGHT - listBox.clientHeight;
  inView();
  if (byUtterance) talk(U.episode[selected], selected);
  else talk(selected);
}

function listPane() {
  const kinds = choice(['Episodes', 'Utterances'], 0, (i) => {
    byUtterance = i === 1;
    selected = -1;
    listBox.setAttribute('aria-label', byUtterance ? 'Utterances' : 'Episodes');
    listBox.scrollTop = 0;
    listed();
  });
  const sorts = Object.entries(ORDERS).filter(([key]) => key !== 'apart' || DISAGREEMENT[1] > 0).map(([key, [[text]]]) => [key, text]);
  let pending = 0;
  listBox.addEventListener('scroll', () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(inView); });
  listBox.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    if (!step) return;
    event.preventDefault();
    const now = entries.findIndex((entry) => entry.at === selected);
    choose(Math.min(Math.max(now + step, 0), entries.length - 1));
  });
  addEventListener('resize', inView);
  watchers.push(listed);
  return el('div', { class: 'pane' },
    el('div', { class: 'top' }, el('div', { class: 'pick' }, kinds), menu(sorts, (value) => { order = value; listBox.scrollTop = 0; listed(); }, 'order')),
    listBox);
}
