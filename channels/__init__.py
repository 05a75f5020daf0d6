"""Channel adapters: they translate between provider wire formats and the hub's values, and decide nothing."""
