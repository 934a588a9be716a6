// What is looked for. One state, one pass over the utterances, and everybody who draws is told.

const filters = { environment: '', name: '', low: REWARDS[0], high: REWARDS[1], disagreement: 0, text: '' };
const matching = new Uint8Array(COUNT).fill(1);
let matches = COUNT;
const watchers = [];

function filtered() {
  const environment = filters.environment === '' ? null : Number(filters.environment);
  const name = filters.name === '' ? null : Number(filters.name);
  const ranged = filters.low > REWARDS[0] || filters.high < REWARDS[1];
  const wanted = filters.text.trim().toLowerCase();
  matches = 0;
  for (let i = 0; i < COUNT; i += 1) {
    const reward = U.reward[i];
    const fits = (environment === null || E.environment[U.episode[i]] === environment)
      && (name === null || U.name[i] === name)
      && (!ranged || (isNumber(reward) && reward >= filters.low && reward <= filters.high))
      && (filters.disagreement === 0 || (isNumber(U.disagreement[i]) && U.disagreement[i] >= filters.disagreement))
      && (!wanted || SEARCHED[i].includes(wanted));
    matching[i] = fits ? 1 : 0;
    matches += matching[i];
  }
  for (const watcher of watchers) watcher();
}

let waiting = 0;
function changed() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(filtered);
}

const picked = (column) => {
  const found = [];
  for (let i = 0; i < COUNT; i += 1) if (matching[i] && isNumber(column[i])) found.push(column[i]);
  return found;
};

function filterBar() {
  const counts = counted(U.name, D.names.length);
  const places = counted(E.environment, D.environments.length);
  const named = D.names.map((name, i) => [i, `${oneLine(name, 60) || '(no name)'} (${whole(counts[i])})`]);
  const environments = D.environments.map((one, i) => [i, `${oneLine(one, 60) || '(none)'} (${whole(places[i])})`]);
  const set = (key, read = (value) => value) => (event) => { filters[key] = read(event.target.value); changed(); };
  const environment = el('select', { id: 'environment', onchange: set('environment') },
    [['', 'all'], ...environments].map(([value, text]) => el('option', { value }, text)));
  const agent = el('select', { id: 'agent', onchange: set('name') },
    [['', 'all'], ...named].map(([value, text]) => el('option', { value }, text)));
  const rewardText = el('output');
  const step = (REWARDS[1] - REWARDS[0]) / 200 || 0.01;
  const slider = (id, value) => el('input', { id, type: 'range', min: 0, max: 200, value, 'aria-label': id });
  const [low, high] = [slider('lowest reward', 0), slider('highest reward', 200)];
  [low.id, high.id] = ['low', 'high'];
  const ranged = () => {
    const [a, b] = [Number(low.value), Number(high.value)].sort((p, q) => p - q);
    filters.low = a === 0 ? REWARDS[0] : REWARDS[0] + a * step;
    filters.high = b === 200 ? REWARDS[1] : REWARDS[0] + b * step;
    rewardText.textContent = `${short(filters.low, 2)} to ${short(filters.high, 2)}`;
    changed();
  };
  low.addEventListener('input', ranged);
  high.addEventListener('input', ranged);
  const most = DISAGREEMENT[1];
  const apartText = el('output', {}, 'any');
  const apart = el('input', { id: 'disagreement', type: 'range', min: 0, max: 100, value: 0 });
  apart.addEventListener('input', () => {
    filters.disagreement = (Number(apart.value) / 100) * most;
    apartText.textContent = filters.disagreement ? `≥ ${short(filters.disagreement, 2)} sd` : 'any';
    changed();
  });
  const search = el('input', { id: 'search', type: 'search', placeholder: 'words said', 'aria-label': 'words said', oninput: set('text') });
  const reset = el('button', { id: 'reset', type: 'button', class: 'plain', onclick: () => {
    [environment.value, agent.value, search.value, low.value, high.value, apart.value] = ['', '', '', 0, 200, 0];
    Object.assign(filters, { environment: '', name: '', disagreement: 0, text: '' });
    apartText.textContent = 'any';
    ranged();
  } }, 'show all');
  const count = el('span', { id: 'count', 'aria-live': 'polite' });
  watchers.push(() => {
    count.replaceChildren(el('b', {}, whole(matches)), matches === COUNT ? ' utterances' : ` of ${whole(COUNT)} utterances`);
    reset.hidden = matches === COUNT && !filters.text;
  });
  rewardText.textContent = `${short(REWARDS[0], 2)} to ${short(REWARDS[1], 2)}`;
  return [
    el('label', {}, 'environment', environment),
    el('label', {}, 'agent', agent),
    el('label', {}, 'reward', el('span', { class: 'range' }, low, high), rewardText),
    most > 0 ? el('label', { tip: 'Standard deviation of the opinions, in standard deviations of the dimension.' }, 'disagreement', apart, apartText) : null,
    search, reset, count,
  ];
}
