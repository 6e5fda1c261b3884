"""A study's numbers: BLEU and chrF of every trained arm on the test pairs, and paired tests against the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longspan.errors import ConfigError
from longspan.files import alone_in, write_text
from longspan.models.config_file import read_json
from longspan.records import Record, append_records
from longspan.systems.xl_pe.config import StudySettings
from longspan.systems.xl_pe.corpus import Pair, read_split
from longspan.systems.xl_pe.preparing import Say, StudyFolder
from longspan.systems.xl_pe.training import LOSS_FILE, arm_orders, is_trained
from longspan.systems.xl_pe.translating import Translator

RESAMPLES = 1000
"""Of the bootstrap over test sentences."""
OUTPUT_FILE, TABLE_FILE = "test.txt", "table.md"
READING = (
    "After the idea of XL-PE (arXiv:2004.13310): the paper's text was not available; how positions are joined and which"
    " heads read them is our reading, and no number here stands for the paper's."
)


def evaluate(folder: StudyFolder, *, device: str | None = None, say: Say = lambda text: None) -> str:
    """Translate the test pairs by every arm that is trained and score them; the table, as Markdown.

    The study's `records.jsonl` and `table.md` are written anew. Arms are compared with the baseline of their seed.

    Args:
        device: where to translate; None: where the study says.

    Raises:
        ConfigError: a seed has arms but no baseline, nothing is trained at all, or sacrebleu is not installed.
    """
    settings = folder.settings()
    settings = settings if device is None else settings.model_copy(update={"device": device})
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ConfigError("scoring needs sacrebleu: pip install 'longspan[translate]'") from error
    metrics = {"bleu": BLEU(tokenize=settings.tokenize), "chrf": CHRF()}
    pairs = read_split(settings.test)
    with alone_in(folder.root):
        records: list[Record] = []
        for seed in settings.seeds:
            trained = [arm for arm in settings.arms if is_trained(folder, settings, arm, seed)]
            if trained:
                records += _losses(folder, settings, seed, trained)
                found = {arm: _translations(folder, settings, arm, seed, pairs, say) for arm in trained}
                records += _scores(settings, seed, found, [" ".join(target) for _, target in pairs], metrics)
        if not records:
            raise ConfigError(f"{folder.root} has no trained arm: run `longspan xlpe train` first")
        folder.records.unlink(missing_ok=True)
        append_records(folder.records, records)
        signatures = ", ".join(str(metric.get_signature()) for metric in metrics.values())
        table = f"{score_table(records)}\n{READING}\n\n{signatures}\n"
        write_text(folder.root / TABLE_FILE, table)
    return table


def _losses(folder: StudyFolder, settings: StudySettings, seed: int, arms: Sequence[str]) -> list[Record]:
    return [
        Record(
            run=settings.name, method="xl-pe", model=arm, task="train", metric=f"{split}_loss", value=loss, seed=seed
        )
        for arm in arms
        for split, loss in read_json(folder.run(arm, seed) / LOSS_FILE).items()
    ]


def _translations(
    folder: StudyFolder, settings: StudySettings, arm: str, seed: int, pairs: Sequence[Pair], say: Say
) -> list[str]:
    """Those of an arm, made now or read from its folder."""
    path = folder.run(arm, seed) / OUTPUT_FILE
    if not path.exists():
        say(f"translating by {arm}, seed {seed}")
        orders = arm_orders(folder, settings.arms[arm], "test", pairs, seed)
        translator = Translator.load(path.parent, settings.device)
        made = translator.translate([source for source, _ in pairs], orders, beams=settings.beams)
        write_text(path, "".join(f"{line}\n" for line in made))
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _scores(
    settings: StudySettings, seed: int, found: dict[str, list[str]], references: list[str], metrics: dict[str, Any]
) -> list[Record]:
    """Scores of the arms of one seed with 95 % intervals, and p-values of a paired bootstrap against the baseline."""
    from sacrebleu.significance import PairedTest

    reference = settings.reference
    if reference not in found:
        raise ConfigError(f"seed {seed}: the baseline '{reference}' is not trained: run `longspan xlpe train` for it")
    ordered = [reference, *(arm for arm in found if arm != reference)]
    systems = [(arm, found[arm]) for arm in ordered]
    _, results = PairedTest(systems, metrics, [references], test_type="bs", n_samples=RESAMPLES)()
    records = []
    for name, column in zip(metrics, list(results.values())[1:], strict=True):  # the first column has the names
        for arm, result in zip(ordered, column, strict=True):
            shared: dict[str, Any] = {
                "run": settings.name,
                "method": "xl-pe",
                "model": arm,
                "task": "translation",
                "seed": seed,
            }
            low, high = float(result.mean - result.ci), float(result.mean + result.ci)
            records.append(
                Record(metric=name, value=float(result.score), low=low, high=high, n=len(references), **shared)
            )
            if arm != reference:
                # sacrebleu gives its smallest p-value to a difference that is 0 in every resample
                p = 1.0 if found[arm] == found[reference] else float(result.p_value)
                records.append(Record(metric=f"{name}_p", value=p, n=len(references), **shared))
    return records


def score_table(records: Sequence[Record]) -> str:
    """A row an arm, columns by seed: BLEU with its interval, p of the difference from the baseline, chrF."""
    rows = [record for record in records if record.task == "translation"]
    arms, seeds = (
        list(dict.fromkeys(row.model for row in rows)),
        sorted({row.seed for row in rows if row.seed is not None}),
    )
    values = {(row.model, row.seed, row.metric): row for row in rows}
    lines = [["arm", *(f"seed {seed}: {name}" for seed in seeds for name in ("BLEU", "p", "chrF"))]]
    lines.append([":--", *("--:" for _ in lines[0][1:])])
    for arm in arms:
        cells = []
        for seed in seeds:
            bleu, p, chrf = (values.get((arm, seed, name)) for name in ("bleu", "bleu_p", "chrf"))
            cells += [
                f"{bleu.value:.1f} ({bleu.low:.1f} to {bleu.high:.1f})" if bleu else "–",
                f"{p.value:.3f}" if p else "–",
                f"{chrf.value:.1f}" if chrf else "–",
            ]
        lines.append([arm, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
