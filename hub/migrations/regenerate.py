"""Write a revision from the difference between the models and the chain: `python -m hub.migrations.regenerate MESSAGE`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from sqlalchemy import create_engine

from hub.migrations import HERE, config_for, migrate


def write_revision(message: str) -> Path:
    """The new file in versions/; asks a scratch SQLite database that has the chain so far."""
    number = len(list((HERE / "versions").glob("[0-9]*.py"))) + 1
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/scratch.db"
        if number > 1:
            migrate(url)
        config = config_for(url)
        with create_engine(url).connect() as connection:
            config.attributes["connection"] = connection
            command.revision(config, message, autogenerate=True, rev_id=f"{number:04d}")
    return next((HERE / "versions").glob(f"{number:04d}_*.py"))


if __name__ == "__main__":
    sys.stdout.write(f"{write_revision(' '.join(sys.argv[1:]) or 'change')}\n")
