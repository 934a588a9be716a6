// One dialogue: who is in it, what was said, the reward of each utterance as its colour, and each opinion on a click.

const talkBox = el('div', { id: 'talk' });
let talking = -1;

function talk(episode, focus = -1) {
  talking = episode;
  const rows = ROWS[episode];
  const turns = rows.map((i) => turn(i, i === focus));
  talkBox.replaceChildren(
    el('h2', {}, titleOf(episode)),
    el('p', { class: 'muted' }, `${E.id[episode]} · ${D.environments[E.environment[episode]]}`),
    el('p', { class: 'scene', dir: 'auto' }, E.scenario[episode], E.relationship[episode] ? el('span', { class: 'muted' }, `  (${E.relationship[episode]})`) : null),
    el('div', { class: 'cast' }, E.agents[episode].map((agent, k) => person(episode, agent, k))),
    el('div', { class: 'turns' }, turns));
  const at = rows.indexOf(focus);
  if (at < 0) talkBox.scrollTop = 0;
  else turns[at].scrollIntoView({ block: 'center' });
}

function person(episode, agent, k) {
  const scores = E.scores[episode].filter(([who]) => who === agent.agent);
  const by = new Set(scores.map(([, , , evaluator]) => evaluator));
  return el('div', { class: 'person' },
    el('b', {}, el('i', { vars: { background: AGENTS[k % AGENTS.length] } }), el('span', { dir: 'auto' }, agent.name), agent.model ? el('span', { class: 'muted' }, agent.model) : null),
    agent.goal ? el('p', { dir: 'auto' }, agent.goal) : null,
    scores.length ? el('div', { class: 'scores' }, scores.map(([, dimension, score, evaluator]) => el('span', { tip: `scored by ${evaluator}` }, `${words(dimension)} `, el('b', {}, String(score)), by.size > 1 ? ` ${oneLine(evaluator, 20)}` : null))) : null);
}

function turn(i, open) {
  const k = U.agent[i];
  const action = D.actions[U.action[i]];
  const reward = U.reward[i];
  const details = el('div', { class: 'more', hidden: true, role: 'group', 'aria-label': 'Opinions', tabindex: 0 });
  const toggle = () => {
    if (!details.childNodes.length) details.append(opinions(i));
    details.hidden = !details.hidden;
    said.setAttribute('aria-expanded', String(!details.hidden));
  };
  const acts = { none: 'does nothing', leave: 'leaves the conversation' }[action];
  const to = U.to[i] ? ` to ${U.to[i].map((id) => (E.agents[U.episode[i]].find((a) => a.agent === id) || { name: id }).name).join(', ')}, in private` : '';
  const note = acts || (action === 'speak' ? '' : `[${action}] `);
  const said = el('button', { class: 'said', type: 'button', 'aria-expanded': 'false', 'data-utterance': i, vars: { '--c': colour(reward) || 'var(--line)' }, onclick: toggle },
    el('span', { class: `words ${action === 'speak' ? '' : 'act'}`, dir: 'auto' }, note, U.text[i], U.failed[i] ? ' (the generation failed)' : null),
    el('span', { class: 'reward' }, short(reward, 2), U.spread[i] > 0 ? el('small', { tip: 'Standard deviation of the rewards that each opinion alone would give.' }, `± ${short(U.spread[i], 2)}`) : null));
  if (open) toggle();
  return el('div', { class: `turn ${k % 2 ? 'right' : ''} ${matching[i] ? '' : 'dim'}` },
    el('div', { class: 'who' }, el('i', { vars: { background: AGENTS[k % AGENTS.length] } }), el('span', { dir: 'auto' }, agentOf(i).name + to), `turn ${U.turn[i]}`),
    said, details);
}

// What each opinion says of each dimension, and what became of it.
function opinions(i) {
  const found = document.createDocumentFragment();
  const level = (value, scale) => {
    if (!isNumber(value)) return '–';
    if (!scale) return short(value, 2);
    const width = ((value - scale[0]) / (scale[1] - scale[0])) * 100;
    return el('span', { class: 'level' }, el('i', { vars: { '--w': `${width}%` } }), String(+value.toFixed(3)));
  };
  found.append(el('table', {},
    el('tr', {}, el('th', {}, 'dimension'), D.opinions.map((name) => el('th', {}, name)), el('th', { class: 'num' }, 'as attributed'), el('th', { class: 'num' }, 'normalised')),
    D.dimensions.map((name, d) => el('tr', {}, el('td', {}, words(name)), D.opinions.map((_, o) => el('td', {}, level(U.said[o][d][i], D.scales[d]))),
      el('td', { class: 'num' }, short(U.raw[d][i], 2)), el('td', { class: 'num' }, short(U.norm[d][i], 3))))));
  found.append(el('p', { class: 'muted' }, `reward ${short(U.reward[i], 4)}${isNumber(U.spread[i]) ? `, spread of the opinions’ rewards ${short(U.spread[i])}` : ''}`));
  for (const [dimension, judge, reason] of D.lost[i] || []) {
    found.append(el('p', { class: 'bad', dir: 'auto' }, `no label on ${words(dimension)}${judge ? ` by ${judge}` : ''}: ${reason}`));
  }
  return found;
}

function talkPane() {
  talkBox.append(el('p', { class: 'back' }, 'Choose an episode: every utterance in the colour of its reward, every opinion on a click.'));
  watchers.push(() => { if (talking >= 0) talkBox.querySelectorAll('.turn').forEach((node, k) => node.classList.toggle('dim', !matching[ROWS[talking][k]])); });
  return el('div', { class: 'pane' }, talkBox);
}
