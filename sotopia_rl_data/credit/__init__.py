"""Credit measured against the truth: games whose true credit is computed, and how near judges and models come to it.

What is known of a game, from the rules to the dataset:

    game.py                     the noun: states, moves, consequences, policies, scores
    haggling.py, errands.py     two kinds of games; words/ has how their moves are said
    solved.py, shapley.py       the truth: V, Q, Q − V by dynamic programming; the Shapley value of each turn
    playing.py, saying.py       dialogues drawn from a game: moves and chance; their words
    making.py                   games as a version of episodes, with the truth beside them

What is measured by it:

    truth.py, measuring.py          the truth laid out; how near a method's credit comes to it
    planted.py, bench.py            judges with known faults; every schema × rule × judge measured
    labelling.py                    judges asked about known games
    checklist.py                    what a report should say, filled in
    bench_page.py, bench_card.py    the bench as a page, and as a section of a card

What does better than asking once:

    simulating.py, replaying.py         games played on from any turn; Q − V and Shapley values estimated from it
    branching.py, counterfactual.py     dialogues played on by policies from one of their turns
    coalitions.py                       dialogues played anew with some of an agent's turns, for Shapley values
    crediting.py, replay_rows.py        either, judged through the ledger; what comes of it, as a version
    replay_estimate.py                  what it would ask and cost
    unsure.py                           chances, and means, when a judge is asked about some rows alone
    held_out.py, units.py               reward models that have not seen a row; what is asked together
    where_unsure.py, unsure_rows.py     `label --where-unsure`, and the version that comes of it

`truth` is the answer to what judges are asked, so nothing here hands it to one, but for the planted judges.
"""
