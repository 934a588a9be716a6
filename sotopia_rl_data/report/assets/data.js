// The data of the page, and what is derived from it once: which rows belong to which episode, ranges, counts.

const D = JSON.parse(document.getElementById('data').textContent);
const U = D.utterances;
const E = D.episodes;
const COUNT = U.text.length;

const ROWS = E.id.map(() => []);
for (let i = 0; i < COUNT; i += 1) ROWS[U.episode[i]].push(i);

const REWARDS = extent(U.reward);
const DISAGREEMENT = extent([0, ...U.disagreement]);
const LENGTH = U.text.map((text) => (text.match(/\S+/g) || []).length);
const SEARCHED = U.text.map((text) => text.toLowerCase());

const share = (reward) => (REWARDS[1] > REWARDS[0] ? (reward - REWARDS[0]) / (REWARDS[1] - REWARDS[0]) : 0.5);
const colour = (reward) => (isNumber(reward) ? blend(share(reward)) : null);
const dimensionColour = (index) => PALETTE[index % PALETTE.length];
const agentOf = (i) => E.agents[U.episode[i]][U.agent[i]];
const titleOf = (episode) => E.title[episode] || E.id[episode];

function counted(column, size) {
  const counts = new Array(size).fill(0);
  for (const value of column) counts[value] += 1;
  return counts;
}
