"""`run.py`: what it brings and when, with stand-ins for uv and npm that write down what they were told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ["run.py", "pyproject.toml", "package.json", "package-lock.json"]
UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
[ -n "$UV_FAILS" ] && { echo "no such package"; exit 3; }
sleep "${UV_TAKES:-0}"
if [ "$1" = venv ]; then
  for last; do :; done
  mkdir -p "$last/bin"
  printf '#!/bin/sh\\necho "python $*"\\n' > "$last/bin/python"
  printf '#!/bin/sh\\necho "hub $*"\\n' > "$last/bin/hub"
  chmod +x "$last/bin/python" "$last/bin/hub"
fi
"""
NPM = """#!/bin/sh
[ "$1" = --version ] && { echo 11.0.0; exit; }
echo "npm $*" >> "$CALLS"
mkdir -p node_modules
"""


class Tree:
    """A copy of what set-up reads, with stand-ins on the path."""

    def __init__(self, root: Path) -> None:
        self.root = root / "hub"
        self.root.mkdir()
        for name in [*FILES, *(path.name for path in ROOT.glob("*.lock"))]:
            shutil.copy(ROOT / name, self.root)
        self.bin = root / "bin"
        self.bin.mkdir()
        for name, text in (("uv", UV), ("npm", NPM)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        self.calls = root / "calls"
        self.calls.write_text("")

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(self.bin), "/usr/bin", "/bin"])
        return subprocess.Popen(
            [sys.executable, str(self.root / "run.py"), *words],
            env={"PATH": path, "CALLS": str(self.calls), **environ},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(*words, **environ)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def called(self) -> list[str]:
        """What the stand-ins were told since the last look, in a fixed order: set-up works side by side."""
        calls = sorted(self.calls.read_text().splitlines())
        self.calls.write_text("")
        return calls


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_first_start_brings_everything_and_the_second_nothing(tree: Tree) -> None:
    code, out, err = tree.run()
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "hub serve"
    assert all(line.startswith("set-up: ") for line in out.splitlines()[:-1])
    npm, install, sync, venv = tree.called()
    assert npm.startswith("npm ci --ignore-scripts")
    assert install.startswith("uv pip install --no-deps --python ")
    assert install.endswith(f"--build-constraints {tree.root}/requirements-tools.lock -e .")
    assert sync.startswith("uv pip sync --require-hashes --python ")
    assert sync.endswith(f"{tree.root}/requirements.lock")
    assert venv.startswith("uv venv --clear --python ")

    assert tree.run() == (0, "hub serve\n", "")
    assert tree.called() == []


def test_verbs_go_to_the_hub_and_tests_to_pytest(tree: Tree) -> None:
    assert tree.run("setup")[0] == 0
    assert tree.run("user", "list", "--all") == (0, "hub user list --all\n", "")
    assert tree.run("test") == (0, "python -m pytest -n 2 --dist loadfile\n", "")
    assert tree.run("test", "-k", "x") == (0, "python -m pytest -k x\n", "")
    assert tree.run("--help")[1].startswith("usage: python3 run.py")


def test_bytecode_is_kept_in_the_tools_where_it_may_not_lie_beside_the_sources(tree: Tree) -> None:
    tree.run("serve")
    shown = '#!/bin/sh\necho "bytecode [$PYTHONDONTWRITEBYTECODE] [$PYTHONPYCACHEPREFIX]"\n'
    (tree.root / ".venv" / "bin" / "hub").write_text(shown)
    assert tree.run("serve")[1] == "bytecode [] []\n"
    assert tree.run("serve", PYTHONDONTWRITEBYTECODE="1")[1] == f"bytecode [] [{tree.root}/.tools/bytecode]\n"
    elsewhere = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/elsewhere"}
    assert tree.run("serve", **elsewhere)[1] == "bytecode [] [/elsewhere]\n"


def test_only_what_changed_is_brought_again(tree: Tree) -> None:
    tree.run()
    tree.called()
    with (tree.root / "package-lock.json").open("a") as lock:
        lock.write("\n")
    tree.run("user", "list")  # needs no front-end files
    assert tree.called() == []
    tree.run()
    assert [call.split()[0] for call in tree.called()] == ["npm"]
    with (tree.root / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    tree.run()
    assert [" ".join(call.split()[:3]) for call in tree.called()] == ["uv pip install", "uv pip sync"]
    text = (tree.root / "pyproject.toml").read_text()
    (tree.root / "pyproject.toml").write_text(text + "\n[tool.other]\nx = 1\n")
    tree.run()
    assert tree.called() == [], "a tool's settings do not make the packages stale"


def test_a_developers_environment_serves_too_and_stays_one(tree: Tree) -> None:
    tree.run()
    tree.called()
    tree.run("test")
    assert any("requirements-dev.lock" in call for call in tree.called())
    tree.run()
    assert tree.called() == []
    with (tree.root / "requirements-dev.lock").open("a") as lock:
        lock.write("# changed\n")
    tree.run()
    assert any("requirements-dev.lock" in call for call in tree.called())


def test_a_moved_tree_is_set_up_again(tree: Tree) -> None:
    tree.run()
    tree.called()
    tree.root = tree.root.rename(tree.root.with_name("moved"))
    assert tree.run()[0] == 0
    assert any(call.startswith("uv venv --clear") for call in tree.called())


def test_two_starts_at_once_set_up_once(tree: Tree) -> None:
    both = [tree.start("setup", UV_TAKES="0.4"), tree.start("setup", UV_TAKES="0.4")]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert len([call for call in tree.called() if call.startswith("uv venv")]) == 1
    assert sum("another set-up is running here" in out for out, _ in ends) == 1


def test_a_failing_step_shows_its_words_and_is_tried_again_next_time(tree: Tree) -> None:
    code, _, err = tree.run(UV_FAILS="1")
    assert code == 1
    assert "no such package" in err
    assert err.splitlines()[-1].startswith("Set-up stopped: making .venv ended with code 3")
    assert "Traceback" not in err
    assert tree.run()[0] == 0


def test_without_uv_and_without_pip_it_says_what_to_install(tree: Tree, tmp_path: Path) -> None:
    (tree.bin / "uv").unlink()
    (tmp_path / "pip.py").write_text("raise SystemExit(1)")
    code, _, err = tree.run(PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "has no pip. Install it" in err
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_written_is_one_sentence(tree: Tree) -> None:
    (tree.root / ".tools").write_text("in the way")
    code, _, err = tree.run()
    assert code == 1
    assert err.startswith(f"Cannot write to {tree.root}/.tools")
    assert len(err.splitlines()) == 1
