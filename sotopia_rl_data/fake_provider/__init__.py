"""A provider on this machine that speaks OpenAI's and Anthropic's protocols: for tests, benchmarks and dry evenings.

It obeys each request's JSON schema with values drawn from a hash of the prompt, keeps a real prefix cache, and can be
slow, limited, faulty and malformed, all of it decided by the seed and the request and by nothing else. Its answers
mean nothing.

    python -m sotopia_rl_data.fake_provider --port 8000 --latency 0.5 --limit 100
"""
