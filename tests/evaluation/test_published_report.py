"""Published metrics beside ours: what their sources state, and which sets were trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.evaluation.builders import predictions
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.published import FILE, PLCC_WORDS, published_groups
from vqr1.evaluation.published_report import published_tables
from vqr1.evaluation.report import Evaluation, main_table
from vqr1.evaluation.report_values import json_values, metric_values, summary_values
from vqr1.evaluation.set_metrics import SetMetrics, set_metrics
from vqr1.evaluation.tables import Table, to_latex
from vqr1.evaluation.trained_on import TrainedOn

NONE = MetricOptions(curves=(), draws=0)


def metrics(dataset: str, scores: list[float], **more: list[str]) -> SetMetrics:
    return set_metrics(predictions(scores, list(range(len(scores))), dataset=dataset, **more), NONE)


def paper(*sets: SetMetrics) -> Table:
    return published_tables(Evaluation("model, mode", sets, NONE))[0]


def test_a_set_that_a_published_model_was_trained_on_is_marked() -> None:
    table = paper(metrics("spaq", [1, 2, 3, 4]), metrics("deblur", [1, 2, 3, 5]))
    rows = {row[0]: row[1:] for row in table.rows}
    # SPAQ .913/.917, Liu13 .845/.879; (.913 + .845) / 2 = .879, (.917 + .879) / 2 = .898.
    assert rows["VisualQuality-R1, KADID-10k + SPAQ"] == (
        "not stated", "0.913/0.917 †", "0.845/0.879", "0.879/0.898 †",
    )  # fmt: skip
    assert rows["VisualQuality-R1"][1] == "0.875/0.878"
    assert not any("†" in cell for cell in rows["this evaluation"])
    distinct = "† published: the model was trained on SPAQ, so SPAQ is not a set never trained on"
    assert any(note.startswith(distinct) for note in table.notes)
    assert r"0.913/0.917 \dag{}" in to_latex(table)
    # Where no marked cell is shown nothing is stated of the mark.
    assert not any("†" in note for note in paper(metrics("livec", [1, 2, 3, 5])).notes)


def test_what_the_sources_do_not_state_is_not_claimed() -> None:
    text = FILE.read_text()
    assert "SRIQA-Bench over the whole file" not in text
    assert 'never trained on"' not in text
    kadid, koniq, isotonic, _ = published_groups()
    assert "how SRIQA-Bench was aggregated is not stated" in kadid.protocol
    assert set(kadid.not_stated) == {"sriqa"}
    marked = {m.model: m.trained_sets for m in kadid.models if "spaq" in m.trained_sets}
    assert marked == {"VisualQuality-R1, KADID-10k + SPAQ": ("kadid", "spaq")}
    # The one protocol that fits on the test images is never beside others, nor without its name.
    assert [m.model for m in isotonic.models] == ["Zoom-IQA, after isotonic regression"]
    assert {m.trained_sets for m in koniq.models if m.model != "NIQE"} == {("koniq",)}


def test_a_plcc_is_compared_with_those_of_its_kind() -> None:
    options = replace(NONE, curves=("logistic4",))
    spaq = set_metrics(predictions([1, 2, 4, 3, 6], [1, 2, 3, 4, 5], dataset="spaq"), options)
    tables = published_tables(Evaluation("model, mode", (spaq,), options))
    kinds = {row[0]: row[1] for row in tables[1].rows}
    assert (kinds["MR-IQA"], kinds["DeQA"], kinds["Q-Insight"]) == ("raw", "4-p. fit", "not stated")
    assert [row[:2] for row in tables[1].rows[-2:]] == [
        ("this evaluation", "raw"), ("this evaluation", "4-p. fit"),
    ]  # fmt: skip
    assert {row[1] for row in tables[2].rows[:-2]} == {"isotonic fit"}
    stated = {model.plcc_of for group in published_groups() for model in group.models}
    assert stated == {"raw", "logistic4", "isotonic", "not stated"} == PLCC_WORDS.keys()


def test_sriqa_is_given_both_ways() -> None:
    # Labels scaled within each reference: ranks within are right, 1 and 1; D is constant.
    sriqa = metrics(
        "sriqa", [5, 6, 7, 1, 2, 3, 4, 4, 4], references=["A"] * 3 + ["B"] * 3 + ["D"] * 3
    )
    livec = metrics("livec", [1, 2, 4, 3])
    table = paper(sriqa, livec)
    whole, by_reference = table.rows[-2:]
    assert whole[:2] == ("this evaluation", "raw")
    assert whole[2].startswith(f"{sriqa.srcc.value:.3f}/")
    assert by_reference[0] == "this evaluation, sriqa as the mean over 2 of 3 references"
    # CLIVE: 1 - 6 * 2 / 60 = .8; mean (1 + .8) / 2.
    assert by_reference[1:] == ("raw", "1.000/1.000", "0.800/0.800", "0.900/0.900")
    assert (
        "sriqa: whether the published metrics are over the whole file or a mean per reference is "
        "not stated (the labels are scaled within each reference); ours is given both ways"
    ) in table.notes


def test_our_own_training_images_stand_beside_the_number() -> None:
    seen = replace(metrics("spaq", [1, 2, 3, 5]), trained_on=TrainedOn(4, 3, renamed=1))
    other = replace(metrics("livec", [1, 2, 3, 5]), trained_on=TrainedOn(4, 0))
    sentence = (
        "the model was trained on 3 of these 4 images (the same files, by SHA-256, 1 of them under "
        "another name)"
    )
    evaluation = Evaluation("model, mode", (seen, other), NONE)
    table = main_table(evaluation, detailed=True)
    assert [row[0] for row in table.rows[:3]] == ["spaq †", "livec", "mean of 2 sets"]
    assert table.rows[0][-1] == sentence
    assert table.rows[2][-1] == "the model was trained on images of 1 of these 2 sets (spaq)"
    assert f"spaq †: {sentence}" in main_table(evaluation, detailed=False).notes
    ours = published_tables(evaluation)[0]
    assert [cell.endswith("†") for cell in ours.rows[-1][2:]] == [True, False, True]
    assert f"† this evaluation, spaq: {sentence}" in ours.notes
    counts = {
        "images": 4,
        "trained": 3,
        "renamed": 1,
        "validation": 0,
        "name_only": 0,
        "near_identical": 0,
    }
    assert json_values(evaluation)["sets"]["spaq"]["trained_on"] == counts
    assert summary_values(evaluation, seen.srcc, {})["sets"]["spaq"]["trained_on"] == counts
    assert metric_values(evaluation)["eval/spaq/trained_on"] == 3
    assert json_values(Evaluation("", (metrics("spaq", [1, 2, 3]),), NONE))["sets"]["spaq"][
        "trained_on"
    ] is None  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (TrainedOn(5, 0), []),
        (TrainedOn(5, 0, chosen=2), ["2 of these 5 images are the validation images that chose"]),
        (TrainedOn(5, 0, near=2), ["2 of these 5 images are near-identical to training images"]),
        (TrainedOn(5, 0, name_only=1), ["1 of these 5 images have the name of a training image"]),
    ],
)
def test_sentences(found: TrainedOn, words: list[str]) -> None:
    sentences = found.sentences()
    assert len(sentences) == len(words)
    assert all(text.startswith(word) for text, word in zip(sentences, words, strict=True))
