"""The JSON API: one file per noun; the same functions as the desktop."""
