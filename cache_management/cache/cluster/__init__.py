"""The replicated cache over independent nodes: who keeps what, what a quorum says, repair, locks."""
