"""A run on several machines at once: shards, the workers that ask about them, and the one limit that all of them keep.

The run is planned, merged and finished by the process that was started (`driver.py`); workers ask with the functions
that this process would ask with (`worker.py`); how fast, and for how much, is said in one place (`limiter.py`). Ray
starts the workers (`on_ray.py`), and nothing else here knows it.
"""
