// The dialogues of each pair side by side: the agent that is compared in its method's colour, every score with its reason.

const talkBox = el('div', { id: 'talk' });
const listed = el('div', { id: 'pairs', role: 'listbox', tabindex: 0, 'aria-label': 'Pairs' });
let chosenPair = -1;

const goalOf = (episode, position, dimension, evaluator) => {
  const found = D.episodes[episode].scores.find(([who, name, , by]) => who === position && name === dimension && by === evaluator);
  return found ? found[2] : null;
};

function gain(pair) {
  const [first, second] = [pair.sides[0], pair.sides[1]];
  if (!first || !second) return null;
  const [a, b] = [first, second].map(([episode, position]) => goalOf(episode, position, 'goal', condition().evaluator));
  return isNumber(a) && isNumber(b) ? b - a : null;
}

function entry(pair, i) {
  const difference = gain(pair);
  const place = pair.position < 0 ? 'both agents' : `agent ${pair.position + 1}`;
  return el('button', { type: 'button', role: 'option', 'aria-selected': String(i === chosenPair), 'data-pair': i, onclick: () => side(i) },
    el('span', { class: 'name' }, oneLine(pair.title)),
    el('span', { class: 'gain', tip: 'Goal: second method minus first.' }, isNumber(difference) ? `${difference > 0 ? '+' : ''}${short(difference, 1)}` : ''),
    el('span', { class: 'line' }, oneLine(`${place} · partner ${pair.partner} · ${Object.keys(pair.sides).length} of ${D.methods.length} methods`)));
}

function list() {
  listed.replaceChildren(...D.pairs.map(entry));
}

function side(i) {
  chosenPair = i;
  const pair = D.pairs[i];
  const [shown] = Object.values(pair.sides);
  talkBox.replaceChildren(
    el('h2', {}, pair.title),
    el('p', { class: 'scene', dir: 'auto' }, D.episodes[shown[0]].scenario),
    el('div', { class: 'sides' }, Object.entries(pair.sides).map(([m, [episode, position]]) => column(D.methods[m], D.episodes[episode], position, pair.position < 0))));
  talkBox.scrollTop = 0;
  list();
}

function column(method, episode, position, both) {
  const shade = colourOf(method);
  const { evaluator } = condition();
  const scores = episode.scores.filter(([who, , , by]) => by === evaluator && (both || who === position));
  const shortOf = (name) => (D.dimensions.find((one) => one.name === name) || { short: name }).short;
  return el('div', { class: 'side', vars: { '--c': shade, '--mine': shade } },
    el('h3', {}, method, el('span', { class: 'muted' }, `  ${episode.agents[position].name}${both ? ' and the other' : ''} · ${episode.turns.length} turns`)),
    el('div', { class: 'scores' }, scores.length
      ? scores.map(([who, name, score, , why]) => el('span', { class: why ? 'why' : '', tip: why || null }, both ? `${who + 1} ` : '', `${shortOf(name)} `, el('b', {}, String(score))))
      : 'no score'),
    el('details', {}, el('summary', {}, 'Goals'), episode.agents.map((one, k) => el('p', { dir: 'auto' }, el('b', {}, one.name, k === position ? ' (compared)' : ''), ' ', one.goal))),
    el('div', { class: 'turns' }, episode.turns.map(([who, number, action, text]) => el('div', { class: `turn ${who % 2 ? 'right' : ''} ${both || who === position ? 'mine' : ''}` },
      el('div', { class: 'who' }, el('span', { dir: 'auto' }, episode.agents[who].name), `turn ${number}`),
      el('div', { class: 'said' }, el('span', { class: `words ${action === 'speak' ? '' : 'act'}`, dir: 'auto' },
        { none: 'does nothing', leave: 'leaves the conversation' }[action] || (action === 'speak' ? '' : `[${action}] `), text))))));
}

listed.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  side(Math.min(Math.max(chosenPair + step, 0), D.pairs.length - 1));
  listed.children[chosenPair].scrollIntoView({ block: 'nearest' });
});
document.getElementById('dialogues').append(
  el('div', { class: 'pane' }, el('div', { class: 'top' }, `${whole(D.pairs.length)} of ${whole(D.of)} pairs`), listed),
  el('div', { class: 'pane' }, talkBox));
watchers.push(() => { if (chosenPair >= 0) side(chosenPair); else list(); });
if (D.pairs.length) chosenPair = 0;
watchers.forEach((watch) => watch());
document.documentElement.dataset.ready = 'yes';
