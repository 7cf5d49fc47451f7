"""What is measured of caches and told to people and to Prometheus: counted in processes, merged over them."""
