"""A provider on this machine that speaks OpenAI's and Anthropic's protocols: for tests, benchmarks and trials without a
key.

Its answers obey each request's JSON schema, with values drawn from a hash of the prompt; they mean nothing. It keeps a
real prefix cache, and can be slow, rate-limited or faulty, or give malformed answers. All of that depends on the seed
and the request only.

    python -m sotopia_rl_data.fake_provider --port 8000 --latency 0.5 --limit 100
"""
