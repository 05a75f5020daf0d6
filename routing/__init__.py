"""Routing: who gets which interaction, when and why; a pure core applied as guarded updates."""
