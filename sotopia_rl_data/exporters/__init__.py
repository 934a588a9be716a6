"""Ways out: episodes of a version written in somebody else's format. One file a format; `importers/` reads them back.

sotopia.py      the sotopia library's EpisodeLog, its profiles, and the rows of its own export
convokit.py     a ConvoKit corpus
exporting.py    a version into a folder, checked by reading every record back
"""
