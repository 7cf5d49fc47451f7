"""`cache-cli serve`: a proxy in front of the APIs of language models, with the cache inside."""
