"""One page that shows how a cache is used and how its jobs stand: live on loopback, or as one file."""
