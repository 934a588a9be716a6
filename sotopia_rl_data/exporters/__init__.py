"""Ways out: episodes of a version written in somebody else's format. One file a format; `importers/` reads them back.

messages.py     the raw messages of a dialogue, as the sotopia library logs them
sotopia.py      its EpisodeLog, its profiles, and the rows of its own export
run.py          a version into a folder, checked by reading every record back
"""
