"""One stream against the loop of two calls of `model(...)` a decision, on a Marian of usual size.

The model has the shape of OPUS-MT (6 + 6 layers, width 512, 58,101 tokens) and random weights,
which take as long as trained ones. Both follow the same path of READs and WRITEs, made up in
advance. One thread.
"""

import statistics
import time

import torch
from transformers import MarianConfig, MarianMTModel

from psfuture.divergences import cosine
from psfuture.hf_backend import HFBackend

FLOOR = 1.6
WORDS, FUTURE = 20, [11, 12, 13, 14]
VOCABULARY = 58_101


def tokenizer():
    """Words w4, w5, … of a made-up language."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    known |= {f"w{i}": i for i in range(4, VOCABULARY)}
    made = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def model():
    """An OPUS-MT without its training."""
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=VOCABULARY,
        decoder_vocab_size=VOCABULARY,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        pad_token_id=1,
        eos_token_id=2,
        bos_token_id=0,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    return MarianMTModel(config).eval()


def ours(backend, source):
    """Seconds of each decision by kind, and the divergences."""
    spent, said = {"READ": [], "WRITE": []}, []
    tokens: list[int] = []
    for reads in range(1, len(source) + 1):
        prefix = source[:reads]
        start = time.perf_counter()
        encodings = backend.encode([[*prefix, 2], [*prefix, *FUTURE, 2]])
        state, logits = backend.begin(encodings, [tokens, tokens])
        said.append(float(cosine(*logits.softmax(-1).split(1))))
        spent["READ"].append(time.perf_counter() - start)
        token = 20 + reads
        start = time.perf_counter()
        state, logits = backend.step(state, [token, token])
        said.append(float(cosine(*logits.softmax(-1).split(1))))
        spent["WRITE"].append(time.perf_counter() - start)
        tokens.append(token)
    return spent, said


@torch.inference_mode()
def naive(network, source):
    """The same by two calls of the model a decision, from scratch."""
    spent, said = {"READ": [], "WRITE": []}, []
    tokens: list[int] = []

    def decide(kind, prefix):
        start = time.perf_counter()
        fed = torch.tensor([[1, *tokens]])
        p, q = (
            network(input_ids=torch.tensor([ids]), decoder_input_ids=fed).logits[:, -1].softmax(-1)
            for ids in ([*prefix, 2], [*prefix, *FUTURE, 2])
        )
        said.append(float(cosine(p, q)))
        spent[kind].append(time.perf_counter() - start)

    for reads in range(1, len(source) + 1):
        decide("READ", source[:reads])
        tokens.append(20 + reads)
        decide("WRITE", source[:reads])
    return spent, said


if __name__ == "__main__":
    torch.set_num_threads(1)
    network = model()
    backend = HFBackend(network, tokenizer())
    backend.never, backend._never_at = frozenset(), backend._never_at[:0]  # as the naive loop
    source = list(range(100, 100 + WORDS))
    with torch.inference_mode():
        ours(backend, source[:3]), naive(network, source[:3])  # warm
        rounds = [(ours(backend, source), naive(network, source)) for _ in range(3)]
    off = max(abs(a - b) for (_, x), (_, y) in rounds for a, b in zip(x, y, strict=True))
    print(
        f"Marian of OPUS-MT's shape, {WORDS} words read and written in turn, one thread, 3 rounds"
    )
    for kind in ("READ", "WRITE"):
        a, b = (
            statistics.median(s for each in rounds for s in each[which][0][kind])
            for which in (0, 1)
        )
        print(f"median {kind}: {1000 * a:.1f} ms, two calls {1000 * b:.1f} ms: {b / a:.2f} times")
    total = [sum(sum(map(sum, r[which][0].values())) for r in rounds) for which in (0, 1)]
    print(f"all decisions: {total[1] / total[0]:.2f} times as fast; divergences within {off:.0e}")
    if total[1] < FLOOR * total[0] or off > 1e-5:
        raise SystemExit(f"below the floor of {FLOOR} times, or the divergences differ")
