"""How the held-out loss of a short pre-training falls with size and tokens: the runs behind `--budget`'s forecast.

Trains sizes from nothing on the articles of wiki_en with the settings that a budget would choose, each for several
numbers of tokens, and fits L / H = floor + a * parameters^-alpha + b * tokens^-beta (H is the cost of guessing by
frequency; both in millions, and tokens read again worth less). Floor and alpha are taken as given: short runs of few
sizes cannot tell them. The constants in `fusebert/training/loss_law.py` are of the runs in `pretrain_law.jsonl`, which
`--points` adds to; some of them were whole budgets.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

import common
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.vocabulary import make_vocabulary
from fusebert.training.budget import MASK_RATE, NEXT_SENTENCE_WEIGHT, pick_batch
from fusebert.training.loss_law import FLOOR, SIZE_POWER, layer_parameters, worth
from fusebert.training.pretrain import pretrain
from fusebert.training.pretrain_corpus import read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe

VOCABULARY, QUICK_VOCABULARY = 8000, 500
MILLIONS: dict[str, tuple[float, ...]] = {"tiny": (1, 3, 8), "mini": (1, 2.5, 5)}
QUICK_MILLIONS: dict[str, tuple[float, ...]] = {"tiny": (0.02, 0.06), "mini": (0.02, 0.03)}


def point(folder: Path, trunk: str, millions: float, room: Path) -> dict[str, Any]:
    """One run: its size, tokens, and held-out loss."""
    tokens = millions * 1e6
    settings: dict[str, Any] = {"data.train": str(folder.absolute()), "model.trunk": trunk}
    corpus_tokens = len(read_corpus(pretraining_recipe(settings), None).train.ids)
    settings |= {
        "task.passes": tokens / corpus_tokens,
        "task.rounds": 1,
        "task.mask_rate": MASK_RATE,
        "task.next_sentence_weight": NEXT_SENTENCE_WEIGHT,
        "training.tokens_per_batch": pick_batch(tokens),
        "training.trackers": [],
    }
    found = pretrain(settings, room / f"{trunk}-{millions}")
    metrics = found["evaluations"]["held_out"]["metrics"]
    return {
        "trunk": trunk,
        "tokens": found["training"]["tokens"],
        "corpus_tokens": corpus_tokens,
        "mlm_loss": metrics["mlm_loss"],
        "next_sentence_accuracy": metrics["next_sentence_accuracy"],
        "unigram_entropy": found["unigram_entropy"],
        "seconds": found["training"]["seconds"],
    }


def fit(points: list[dict[str, Any]]) -> dict[str, float]:
    """The three constants that so few runs can tell, the two that they cannot, and the largest relative error."""
    parameters = np.array([layer_parameters(one["trunk"]) / 1e6 for one in points])
    tokens = np.array([worth(one["tokens"], one["corpus_tokens"]) / 1e6 for one in points])
    wanted = np.array([one["mlm_loss"] / one["unigram_entropy"] for one in points])

    def law(logs: np.ndarray) -> np.ndarray:
        by_size, by_tokens, power = np.exp(logs)
        return np.asarray(FLOOR + by_size * parameters**-SIZE_POWER + by_tokens * tokens**-power)

    found = least_squares(lambda logs: np.log(law(logs) / wanted), np.log([0.1, 0.5, 0.3]))
    by_size, by_tokens, power = np.exp(found.x).round(4).tolist()
    worst = round(float(np.abs(law(found.x) / wanted - 1).max()), 4)
    return {"by_size": by_size, "by_tokens": by_tokens, "tokens_power": power, "worst": worst} | {
        "floor": FLOOR,
        "size_power": SIZE_POWER,
    }


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--corpus", type=Path, help="folder of a prepared corpus with a vocabulary; else made anew")
    options.add_argument("--sizes", nargs="*", default=[*MILLIONS], help="only these sizes")
    options.add_argument(
        "--points", type=Path, help="JSON lines of earlier runs, which are fitted too; new ones are added"
    )
    given = options.parse_args()
    common.prepare_process()
    grid = QUICK_MILLIONS if given.quick else MILLIONS
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        folder = given.corpus or room / "corpus"
        if given.corpus is None:
            prepare_corpus([str(common.articles())], folder, Settings(held_out=0.02))
            make_vocabulary(folder, QUICK_VOCABULARY if given.quick else VOCABULARY)
        file = given.points or room / "points.jsonl"
        points = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for trunk in given.sizes:
            for millions in grid[trunk]:
                if any(one["trunk"] == trunk and one["millions"] == millions for one in points):
                    continue
                points.append({"millions": millions} | point(folder, trunk, millions, room))
                common.note(f"  {points[-1]}")
                with file.open("a") as out:
                    out.write(json.dumps(points[-1]) + "\n")
    common.show({"machine": common.machine(), "points": points, "law": fit(points)}, given.json)


if __name__ == "__main__":
    main()
