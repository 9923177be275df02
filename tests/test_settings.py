"""Every setting is explained, by the command and on its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusebert.cli import main
from fusebert.config import Recipe
from fusebert.errors import RecipeError
from fusebert.recipe_yaml import parse_overrides
from fusebert.settings import all_settings, page

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make docs writes it anew"


def test_every_setting_is_explained_and_its_default_is_taken() -> None:
    for name, settings in all_settings().items():
        for setting in settings:
            assert setting.meaning, f"{setting.key} of {name} says nothing"
            if name in ("data", "model", "training", "audio", "image") and setting.default is not None:
                Recipe.from_flat({setting.key: setting.default})


def test_what_training_fills_in_is_no_setting() -> None:
    keys = [setting.key for settings in all_settings().values() for setting in settings]
    assert "image.backbone" not in keys
    assert "events.max_events" in keys
    with pytest.raises(RecipeError, match=r"'table\.codes' is not a setting"):
        Recipe.from_flat({"table.codes": 5})


def test_ranges_are_in_words() -> None:
    allowed = {setting.key: setting.allowed for settings in all_settings().values() for setting in settings}
    assert allowed["training.epochs"] == "whole number from 1 to 10,000"
    assert allowed["model.dropout"] == "number from 0 below 1"
    assert allowed["model.fusion"] == "one_stream or concat or two_stream"
    assert allowed["image.mean"] == "3 numbers"


@pytest.mark.parametrize(
    "key", ["training.epochs", "training.checkpoint_steps", "text.max_tokens", "training.time_limit"]
)
def test_yes_is_no_number(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"{key}=True will not do: a number expected, found true or false"):
        Recipe.from_flat({key: True})


def test_one_section_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "training", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["training"][0]["key"] == "training.epochs"
    assert err == ""
    assert main(["settings", "task"]) == 0
    out = capsys.readouterr().out
    assert "matching:\n  task.left (list of text): columns of one side, such as a picture; has to be set\n" in out
    assert "training.seed" not in out
    assert main(["settings", "training.seed"]) == 0
    assert "training.seed (whole number from 0 below 4,294,967,296, default 0)" in capsys.readouterr().out
    assert main(["settings", "trainings"]) == 2
    assert "neither a setting nor one of the sections: data, model, training, audio" in capsys.readouterr().err


def test_words_that_yaml_1_1_takes_for_numbers_are_words() -> None:
    given = ["a=00000000", "b=1_000", "c=12:30", "d=9999-12-31", "e=-999", "f=0", "g=1.5", "h=[1, 02]", "i=null"]
    assert list(parse_overrides(given).values()) == [
        *("00000000", "1_000", "12:30", "9999-12-31", -999, 0, 1.5, [1, "02"], None)
    ]
