"""Why the Hugging Face Hub did not give something, in a few words: its library's own messages take a screen."""

from __future__ import annotations

from collections.abc import Iterator

LONGEST = 200
"""Characters of a message that is not known here."""


def hub_problem(error: BaseException) -> str:
    """What is wrong, and what to do, from an error of huggingface_hub, or of a library that calls it."""
    from huggingface_hub import constants, errors

    said = [*_causes(error)]

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(one, kinds) for one in said)

    if has(errors.HFValidationError):
        return "there is no such folder, and nothing on the Hub can have that name"
    if has(errors.GatedRepoError):
        return "the Hub gives it only to those who have asked for it; ask on its page, and log in with `hf auth login`"
    if has(errors.RepositoryNotFoundError):
        return "the Hub has nothing of that name, or it is private"
    if has(errors.OfflineModeIsEnabled) or (constants.HF_HUB_OFFLINE and has(errors.LocalEntryNotFoundError)):
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to ask the Hub"
    if has(errors.LocalEntryNotFoundError, ConnectionError) or is_of_http(error, "TransportError"):
        return "it is not on this machine, and the Hub cannot be reached; look at the network"
    if has(errors.EntryNotFoundError):
        return "the Hub has it, but not with the files that are needed"
    answers = [one.response.status_code for one in said if isinstance(one, errors.HfHubHTTPError)]
    if answers:
        return f"the Hub answered with error {answers[0]}; try again later"
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def is_of_http(error: BaseException, kind: str) -> bool:
    """Whether it, or what it came from, is an error of the Hub's HTTP library: httpx, httpx2 in newer versions."""
    return any(kind in (base.__name__ for base in type(one).__mro__) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
