"""WordPiece tokenizers as BERT folders hold them: made, read, written, and asked for the ids of a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fusebert.errors import InputError, ModelError
from fusebert.modalities.text.rules import STROKE, WORD, own_normalizer, own_pre_tokenizer, wrong_part
from fusebert.storage import write_atomically, write_json

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
COVERED, LEAST_MERGED = 0.99995, 1 / 8
"""A vocabulary holds single characters until they make up this share of the text, which Chinese takes thousands for,
and leaves this share of its pieces to longer ones."""
CHARACTERS_PER_TOKEN_BOUND = 32
"""Text beyond `max_tokens` times this, blanks aside, is cut before it is tokenized: all but words of more than 100
letters, which are one [UNK], spend fewer characters a token."""
MOST_BYTES = 64 << 20
"""Of a vocabulary's file."""


def encode(tokenizer: Tokenizer, text: str, tokens: int) -> list[int]:
    """Ids of a text, of which `tokens` are wanted; there may be more. Raises InputError."""
    return encoding(tokenizer, text, tokens).ids


def encoding(tokenizer: Tokenizer, text: str, tokens: int) -> Encoding:
    """The same, with the place of each piece in the text."""
    try:
        return tokenizer.encode(cut(text, tokens), add_special_tokens=False)
    except (UnicodeEncodeError, TypeError):
        raise InputError("the text contains half a character (a lone surrogate)") from None


def cut(text: str, tokens: int) -> str:
    """As much of a text as `tokens` of it may take."""
    most = tokens * CHARACTERS_PER_TOKEN_BOUND
    return text if len(text) <= most else " ".join(text.split())[:most]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that word embeddings need: one more than the highest id, as a vocabulary may leave some out."""
    return 1 + max(tokenizer.get_vocab().values())


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of BERT's special tokens, by token."""
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in SPECIAL_TOKENS}


def read_tokenizer(folder: Path, name: str = "tokenizer.json") -> Tokenizer:
    """The WordPiece tokenizer of a model folder: `tokenizer.json`, or `vocab.txt` under BERT's own rules."""
    path = folder / name
    try:
        if path.is_file():
            described = json.loads(_read_text(path))
            if wrong := wrong_part(described):
                raise ModelError(f"{path} is no tokenizer of a BERT: {wrong}")
            tokenizer = Tokenizer.from_str(json.dumps(described))  # what was looked at, and nothing else
        elif (path := folder / "vocab.txt").is_file():
            pieces = (line.rstrip() for line in _read_text(path).split("\n"))
            vocabulary = {piece: number for number, piece in enumerate(pieces) if piece}
            tokenizer = _bert_tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
            tokenizer.normalizer = _published_normalizer(folder)
        else:
            raise ModelError(f"{folder} has neither tokenizer.json nor vocab.txt")
    except ModelError:
        raise
    except Exception as error:  # the library raises bare Exception for a damaged file
        raise ModelError(f"{path} cannot be read: {error}") from None
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise ModelError(f"the vocabulary in {folder} lacks {', '.join(missing)}, which BERT needs")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _without_shorthand(tokenizer)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int | None = None) -> None:
    """Write `tokenizer.json`, and `tokenizer_config.json`, by which transformers reads it as it is.

    Where that names BertTokenizer, transformers takes the pieces alone, and BERT's own rules.

    Args:
        longest: tokens that the trunk can read, to which transformers cuts longer texts where it is asked to.
    """
    special = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    inputs: dict[str, Any] = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    if longest is not None:
        inputs["model_max_length"] = longest
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | special | inputs)
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=True).encode())


def _read_text(path: Path) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise ModelError(f"{path} has more than {MOST_BYTES >> 20} MiB")
    return path.read_bytes().decode()  # a piece may be a sign that ends lines


def train_tokenizer(texts: Iterable[str], size: int, lowercase: bool) -> Tokenizer:
    """A WordPiece vocabulary of at most `size` pieces, special tokens first, in BERT's order.

    The library numbers single characters in the order of a hash map, which differs from run to run and decides ties
    between merges. Here characters are counted and numbered first, so the same texts give the same vocabulary.
    """
    words = _count_words(texts, _own_tokenizer(models.WordPiece(unk_token="[UNK]"), lowercase))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    inner = {character for word in words for character in word[1:]}
    kept, slots, covered = [], size - len(SPECIAL_TOKENS), 0
    for character in sorted(characters, key=lambda character: (-characters[character], character)):
        slots -= 1 + (character in inner)
        if covered >= COVERED * characters.total() or slots < LEAST_MERGED * size:
            break
        kept.append(character)
        covered += characters[character]
    kept.sort()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *kept, *("##" + character for character in kept if character in inner)],
        limit_alphabet=0,
        show_progress=False,
    )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # no rules, which all words have gone through
    tokenizer.train_from_iterator((word for word in sorted(words) for _ in range(words[word])), trainer)
    return _own_tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"), lowercase)


def _count_words(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[str]:
    """How often each word occurs, by the tokenizer's rules, which see each different one once."""
    written: Counter[str] = Counter()
    for text in texts:
        text = text.encode(errors="ignore").decode()
        written.update([text] if STROKE in text else WORD.findall(text))
    words: Counter[str] = Counter()
    for one, count in written.items():
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(one)):
            words[word] += count
    return words


def _own_tokenizer(model: models.WordPiece, lowercase: bool) -> Tokenizer:
    tokenizer = _bert_tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = own_normalizer(lowercase), own_pre_tokenizer()
    if (start := tokenizer.token_to_id("[CLS]")) and (end := tokenizer.token_to_id("[SEP]")):
        ends = ("[SEP]", end), ("[CLS]", start)
        tokenizer.post_processor = processors.BertProcessing(*ends)  # for transformers; here the model adds [CLS]
    return tokenizer


def _bert_tokenizer(model: models.WordPiece) -> Tokenizer:
    """Without a normalizer."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is not None])
    return _without_shorthand(tokenizer)


def _without_shorthand(tokenizer: Tokenizer) -> Tokenizer:
    """Whoever types "[SEP]" means five characters."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def _published_normalizer(folder: Path) -> normalizers.Normalizer:
    """BERT's, as `tokenizer_config.json` has it: German and Turkish BERTs without capitals keep their accents."""
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, berts in (("word_tokenizer_type", "basic"), ("subword_tokenizer_type", "wordpiece")):
        if (kind := said.get(name, berts)) != berts:  # cl-tohoku's for Japanese
            raise ModelError(f"{path} asks for the {name} {kind!s:.40}, which fusebert has not, only {berts}")
    return normalizers.BertNormalizer(
        lowercase=bool(said.get("do_lower_case", True)),
        strip_accents=said.get("strip_accents"),
        handle_chinese_chars=bool(said.get("tokenize_chinese_chars", True)),
    )
