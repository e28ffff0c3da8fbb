"""The one client of OpenAI-compatible endpoints: tries, limits, a cache on disk, tokens and cost."""
