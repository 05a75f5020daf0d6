"""The public entrances: verify, store the receipt, parse, hand on."""
