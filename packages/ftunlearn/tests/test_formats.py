import json
from pathlib import Path

import pytest

from ftunlearn import formats
from ftunlearn.formats import concept_records, concept_vectors, muse, tofu
from ftunlearn.probes import Probe, ProbeSet
from lipogram.errors import InvalidProbes, InvalidSetting, MissingAsset

DATA = Path(__file__).parent / "data"
CONCEPTS = DATA / "concept_vectors.json"


def test_concepts_have_the_published_prompts():
    probes = concept_vectors(CONCEPTS)
    assert len(probes.group("forget")) == 15
    assert len(probes.group("unrelated")) == 10
    assert probes[0] == Probe(
        "3-QA-0", "Question:  What does a kite do first of all?\n\n Answer:", None
    )
    assert not probes.problems
    assert len({probe.id for probe in probes}) == 25
    assert ProbeSet.concept_vectors(CONCEPTS) == probes


def test_concepts_by_id_and_kind():
    probes = concept_vectors(CONCEPTS, ids=[11, "3"], kinds=["text_completion"])
    assert list(probes) == [
        Probe(
            f"{id}-text_completion-0",
            f"Please complete the following paragraph: A {name} was on the table, and everybody",
        )
        for id, name in ((11, "lantern"), (3, "kite"))
    ]
    items, problems = concept_records(CONCEPTS, [13])
    assert [concept["Concept"] for _, concept in items] == ["Teapot"]
    assert not problems
    with pytest.raises(InvalidProbes, match="no concept with the id 4"):
        concept_vectors(CONCEPTS, ids=[4])
    with pytest.raises(InvalidSetting, match="'qa'"):
        concept_vectors(CONCEPTS, kinds=["qa"])


def test_a_broken_concept_is_named_and_the_others_go_on(tmp_path):
    concepts = json.loads(CONCEPTS.read_text())
    concepts[1]["QA"] = "none"
    concepts[2]["QA"][1] = 5
    concepts[3]["text_completion"][0] = "a text"
    path = tmp_path / "concepts.json"
    path.write_text(json.dumps(concepts))
    probes = concept_vectors(path, kinds=["QA", "text_completion"])
    assert len(probes) == 3 * 4 - 1 + 5 - 1
    assert [problem.split(":")[0] for problem in probes.problems] == [
        "concepts.json, item 2",
        "concepts.json, item 3",
        "concepts.json, item 4",
    ]
    with pytest.raises(InvalidProbes, match="item 2: QA of concept 5 is not a list"):
        concept_vectors(path, strict=True)


def test_tofu_from_a_folder_or_a_file():
    probes = tofu("forget10_perturbed", source=DATA / "tofu")
    assert len(probes) == 5
    assert probes[0] == Probe(
        "forget10_perturbed-1",
        "Question: What does Alma Birchfield write about?\nAnswer:",
        " Alma Birchfield writes about botany.",
        ("Question: Which subject are the books of Alma Birchfield on?\nAnswer:",),
        "forget",
        " The books of Alma Birchfield are on botany.",
        tuple(f" Alma Birchfield writes about {x}." for x in ("painting", "railways", "bread")),
    )
    plain = tofu(source=str(DATA / "tofu"))
    assert [(p.prompt, p.answer) for p in plain] == [(p.prompt, p.answer) for p in probes]
    assert plain[0].perturbed_answers == ()
    facts = tofu("world_facts_perturbed", source=DATA / "tofu", template="{q} ")
    assert {probe.group for probe in facts} == {"unrelated"}
    assert facts[1].answer == "Honey"
    assert facts[1].paraphrased_answer is None
    one = tofu("retain90", source=DATA / "tofu" / "forget10.json")
    assert {probe.group for probe in one} == {"retain"}
    assert {p.group for p in tofu(source=DATA / "tofu", group="unrelated")} == {"unrelated"}


def test_a_broken_question_is_named_and_the_others_go_on(tmp_path):
    lines = ['{"question": "q"}', '{"answer": "a"}', '{"question": "q", "answer": "a"}', "oh"]
    (tmp_path / "forget10.jsonl").write_text("\n".join(lines))
    probes = tofu(source=tmp_path)
    assert [probe.id for probe in probes] == ["forget10-3"]
    assert len(probes.problems) == 3
    assert "forget10.jsonl, item 1: probe 'forget10-1': empty answer" in probes.problems
    assert "forget10.jsonl, item 2: probe 'forget10-2': prompt is a NoneType" in str(
        probes.problems
    )


def test_muse_from_a_folder():
    probes = muse(source=DATA / "muse")
    assert [probe.group for probe in probes] == ["forget"] * 3 + ["retain"] * 2
    assert probes[1] == Probe(
        "forget_qa-2", "Question: Who repaired the clock of Eldmoor?\nAnswer:", " Ana Pell"
    )
    passages = muse(part="verbmem", source=DATA / "muse")
    assert len(passages) == 5
    assert passages[2].prompt == "The clock struck"
    assert passages[2].answer == " thirteen, as it had done since spring."
    with pytest.raises(InvalidSetting, match="'Films'"):
        muse("Films")


def test_a_local_source_that_does_not_hold_it(tmp_path):
    with pytest.raises(MissingAsset, match=r"none of forget01\.jsonl, forget01\.json"):
        tofu("forget01", source=tmp_path)
    with pytest.raises(MissingAsset, match="no file, no folder and no hub id"):
        tofu(source="./nowhere/at/all")
    with pytest.raises(MissingAsset, match="cannot be opened"):
        concept_vectors(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda: tofu("forget05"), ("locuslab/TOFU", "forget05", "train", None)),
        (lambda: muse("Books"), ("muse-bench/MUSE-Books", "knowmem", "forget_qa", None)),
        (
            lambda: concept_vectors("olmo-7b"),
            ("YihuaiHong/ConceptVectors", None, "train", "**/olmo-7b_concepts_test.json"),
        ),
    ],
)
def test_what_is_asked_of_the_hub(monkeypatch, ask, wanted):
    asked = []

    def rows(repository, config, split, *, file=None):
        asked.append((repository, config, split, file))
        return [{"question": "q", "answer": "a", "id": 1, "QA": [" q\n"], "unrelated_QA": []}]

    monkeypatch.setattr(formats, "hub_rows", rows)
    assert len(ask()) >= 1
    assert asked[0] == wanted


def test_a_hub_out_of_reach_is_said_in_a_line(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        MissingAsset, match=r"locuslab/TOFU .forget10, train. could not be had"
    ) as e:
        tofu()
    assert "local copy" in str(e.value)
    assert "\n" not in str(e.value)
    assert datasets.config.HF_HUB_OFFLINE is True
