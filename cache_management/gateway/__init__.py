"""What knows the HTTP APIs of language models: their streams, their bodies, and how a cache stands between."""
