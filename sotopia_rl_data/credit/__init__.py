"""Credit measured against the truth: games whose true credit is computed, and how near judges and models come to it.

game.py                     the noun: states, moves, consequences, policies, scores
haggling.py, errands.py     two kinds of games; words/ has how their moves are said
solved.py, shapley.py       the truth: V, Q, Q − V by dynamic programming; the Shapley value of each turn
playing.py, saying.py       dialogues drawn from a game: moves and chance; their words
making.py                   games as a version of episodes, with the truth beside them
"""
