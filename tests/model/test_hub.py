"""What the Hub does not give is said in a line: what, why, and what to do."""

from __future__ import annotations

from typing import Any

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import HfHubHTTPError

from fusebert.errors import ModelError
from fusebert.hub import hub_problem
from fusebert.modalities.audio import encoders as audio
from fusebert.modalities.audio.processor import Config as AudioConfig
from fusebert.modalities.image import encoders as image
from fusebert.modalities.image.processor import Config as ImageConfig
from fusebert.model.pretrained import find_trunk

NINE_LINES = "\n".join(["401 Client Error. (Request ID: Root=1-68)", *["See https://huggingface.co/docs"] * 8])


class Response:
    """As much of an answer of the Hub as its errors look at."""

    status_code = 503
    request = None

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}


def answered(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    response: Any = Response()
    return kind(NINE_LINES, response=response)


def unreachable() -> Exception:
    error = errors.LocalEntryNotFoundError(NINE_LINES)
    error.__cause__ = ConnectionError("[Errno -2] Name or service not known")
    return error


WHY = {
    "unknown": (lambda: answered(errors.RepositoryNotFoundError), "the Hub has nothing of that name, or it is private"),
    "gated": (lambda: answered(errors.GatedRepoError), "only to those who have asked for it"),
    "no files": (lambda: answered(errors.RemoteEntryNotFoundError), "but not with the files that are needed"),
    "down": (lambda: answered(HfHubHTTPError), "answered with error 503; try again later"),
    "no answer": (lambda: httpx2.ConnectError("[Errno -2] Name or service not known"), "the Hub cannot be reached"),
    "no network": (unreachable, "the Hub cannot be reached; look at the network"),
    "offline": (lambda: errors.OfflineModeIsEnabled(NINE_LINES), "HF_HUB_OFFLINE forbids"),
    "no name": (lambda: errors.HFValidationError(NINE_LINES), "nothing on the Hub can have that name"),
}


@pytest.mark.parametrize("kind", WHY)
def test_a_trunk_that_the_hub_does_not_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, why = WHY[kind]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def fail(*_: Any, **__: Any) -> None:
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError) as found:
        find_trunk("nobody/nothing")
    said = str(found.value)
    assert said.startswith("the BERT 'nobody/nothing' cannot be loaded: ")
    assert why in said
    assert "a size (tiny, mini, small, medium, base), the folder of a BERT" in said
    assert "\n" not in said
    assert len(said) < 280


@pytest.mark.parametrize(("module", "config"), [(image, ImageConfig), (audio, AudioConfig)])
def test_an_encoder_that_the_hub_does_not_give(module: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"encoder='nobody/nothing' .* HF_HUB_OFFLINE forbids to ask the Hub$"):
        module.prepare(config(encoder="nobody/nothing"))


def test_what_is_not_known_is_cut() -> None:
    assert hub_problem(ValueError("very\n" * 200)) == "very " * 40 + "..."
    assert hub_problem(KeyError("x")) == "'x'"
