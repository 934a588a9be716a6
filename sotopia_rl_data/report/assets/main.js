// The page, from top to bottom.

document.getElementById('head').append(
  el('h1', {}, D.title, ' ', el('span', {}, D.version)),
  el('p', { class: 'sub' }, `${D.digest}${D.created ? ` · made ${D.created}` : ''}`),
  el('div', { class: 'facts' }, D.facts.map(([name, value]) => el('span', { class: 'fact' }, el('b', {}, words(name)), oneLine(value, 200)))),
  el('div', { class: 'tiles' }, D.tiles.map(([name, n]) => el('div', { class: 'tile' }, el('b', {}, whole(n)), el('span', {}, name)))),
  D.shown.episodes < D.shown.of
    ? el('p', { class: 'banner' }, `Shown are ${whole(D.shown.episodes)} of ${whole(D.shown.of)} episodes, drawn at random. Agreement, failures and the counts above are about all of them.`)
    : '');

const bar = document.getElementById('bar');
const trust = [...agreementCards(), ...failureCard(), ...billCard()];
bar.append(el('div', { class: 'inner' },
  el('div', { class: 'links' }, [['overview', 'Rewards'], ...(trust.length ? [['trust', 'Trust']] : []), ['dialogues', 'Dialogues']].map(([id, text]) => el('a', { href: `#${id}` }, text))),
  filterBar()));
const measured = () => document.documentElement.style.setProperty('--bar', `${bar.offsetHeight}px`);
measured();
addEventListener('resize', measured);

document.getElementById('overview').append(...distributions(), ...positions(), ...correlations());
document.getElementById('trust').append(...trust);
document.getElementById('dialogues').append(listPane(), talkPane());
filtered();
if (entries.length) choose(0);
document.documentElement.dataset.ready = 'yes';
