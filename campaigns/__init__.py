"""Campaigns and call lists: frozen audiences, deliveries, pacing and the sender."""
