"""Every query on the metadata tables."""
