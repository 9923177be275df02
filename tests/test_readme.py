"""What the README says runs, as it says it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fusebert.cli import main
from fusebert.config import read_recipe
from fusebert.data.toyworld import write_toyworld
from fusebert.section import one_or_more

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_toyworld(tmp_path / "demo" / "world", pictures={"train": 12, "val": 4, "test": 4})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEBERT_DATA", str(tmp_path / "elsewhere"))  # as it is set for recipes
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == ".venv/bin/fusebert"
        assert main(arguments) == 0, (command, capsys.readouterr().err)
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own README
    assert "accuracy" in capsys.readouterr().out


COMMANDS = "(train|compare|evaluate|predict|check|settings|corpus|pretrain|embed|index|find|extend) "
PAGES = ("README.md", "docs/pretraining.md", "CONTRIBUTING.md")


def written_commands() -> list[list[str]]:
    """All that pages and recipes spell out, in blocks of any kind."""
    pages = [(ROOT / name).read_text() for name in PAGES] + [path.read_text() for path in (ROOT / "recipes").iterdir()]
    found = [
        line.strip("# ").removesuffix("`").split(":")[0] if line.startswith("#") else line.strip()
        for page in pages
        for line in page.splitlines()
        if re.match(rf"(    +|# )?(RAY_ADDRESS=\S+ )?(\.venv/bin/)?fusebert {COMMANDS}", line)
    ]
    return [shlex.split(line.split(" (")[0])[1:] for line in found if not line.startswith("RAY")]


@pytest.mark.parametrize("arguments", written_commands(), ids=" ".join)
def test_every_command_it_spells_out_is_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an empty folder each ends at what is not there, and none at what it does not know."""
    monkeypatch.delenv("FUSEBERT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    code = main(arguments)
    said = capsys.readouterr().err
    assert code in (1, 2)
    assert re.search(r"does not exist|is no finished corpus|no vocabulary", said), said


def test_the_page_of_the_data_names_every_column_that_a_recipe_reads() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    listed = {row[1]: row[3] for line in page.splitlines() if len(row := line.split("|")) > 5}
    columns = {name.strip(" `"): set(re.findall(r"`(\w+)`", cell)) for name, cell in listed.items()}
    for path in (ROOT / "recipes").glob("*.yaml"):
        recipe = read_recipe(path)
        assert recipe.data.train is not None
        read = {name for name, kind in recipe.data.columns.items() if kind != "ignore"} | {recipe.data.target} - {None}
        read |= {name for side in ("left", "right") for name in one_or_more(recipe.task.get(side, ()))}
        assert read <= columns[recipe.data.train.parts[0]], path.name


def test_every_target_it_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = [*re.findall(r"^make (.*)$", README, flags=re.MULTILINE), *re.findall(r"`make ([\w -]+)`", README)]
    targets = {target for line in named for target in line.split()}
    assert {"setup", "demo", "check", "test", "test-real"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile


def test_every_recipe_it_names_is_valid() -> None:
    recipes = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
    assert sorted(set(re.findall(r"recipes/(\w+\.yaml)", README))) == recipes
    for name in recipes:
        read_recipe(ROOT / "recipes" / name)


def test_the_house_has_all_rooms_and_no_others() -> None:
    tree = re.search(r"## The house\n\n```\nsrc/fusebert/\n(.*?)```", README, flags=re.DOTALL)
    assert tree is not None
    *inside, beside = tree[1].splitlines()
    named = {
        word.rstrip("/")
        for line in inside
        for word in re.findall(r"[\w.]+(?:/|\.py)", re.split(r"  +", line.strip())[0])
    }
    package = ROOT / "src" / "fusebert"
    there = {path.name for path in package.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert named == there - {"__init__.py", "__main__.py", "__pycache__"}
    assert all((ROOT / name).is_dir() for name in beside.split())
