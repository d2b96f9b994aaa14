import copy

import numpy as np
import peft
import pytest
import torch

from ftunlearn.answers import answer, baselines
from ftunlearn.components import COMPONENTS, swept, window
from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe, ProbeSet
from ftunlearn.scores import MEASURES, recoveries
from ftunlearn.sweep import plan, sweep
from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import tiny_random
from lipogram.llm.tuning import lora_config

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "gemma", "qwen2", "opt", "phi")


def perturbed(model, *, seed=1, names=lambda name: True):
    """Every chosen parameter moved a little, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names(name):
                parameter += (
                    0.3
                    * parameter.std(correction=0)
                    * torch.randn(parameter.shape, generator=generator)
                )
    return model


def make_pair(model_type="llama", **how):
    vanilla = tiny_random(model_type)
    unlearned = perturbed(tiny_random(model_type).model, **how)
    return ModelPair(vanilla.model, unlearned, vanilla.tokenizer)


@pytest.fixture(scope="module")
def probes():
    return ProbeSet(
        Probe(f"p{i}", prompt, answer)
        for i, (prompt, answer) in enumerate(
            [("ab", " cd"), ("a longer prompt than the others", " x"), ("one two", " three four")]
        )
    )


def measured(pair, probes, components, *, whole=(), n_new_tokens=6, max_tokens=1000, **how):
    answered, _ = answer(pair, probes, n_new_tokens=n_new_tokens)
    vanilla, unlearned = baselines(pair, answered, max_tokens=max_tokens)
    jobs = plan(
        swept(components),
        [COMPONENTS[name] for name in whole],
        n_layers=pair.n_layers,
        size=how.pop("size", 1),
    )
    done = sweep(pair, answered, jobs, max_tokens=max_tokens, **how)
    return done, vanilla, unlearned


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("protocol", ["aligned", "paper"])
def test_nothing_scores_0_and_everything_1_exactly(model_type, protocol, probes):
    done, vanilla, unlearned = measured(
        make_pair(model_type), probes, ["coef"], whole=["nothing", "all"]
    )
    for name, expected in (("nothing", 0.0), ("all", 1.0)):
        scores = recoveries(done.whole(name), unlearned, vanilla, protocol)
        for loss in ("krs", "krs_centered", "krs_kl"):
            assert (scores[loss] == expected).all(), (name, loss, scores[loss])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox"])
def test_states_of_linear_layers_recover_all_that_the_blocks_changed(model_type, probes):
    """Nothing outside the blocks' projections changed, so their outputs are all there is."""
    how = {"names": lambda name: "proj" in name or "mlp" in name or "attn" in name}
    done, vanilla, unlearned = measured(
        make_pair(model_type, **how), probes, ["coef"], whole=["attn+mlp_states"]
    )
    scores = recoveries(done.whole("attn+mlp_states"), unlearned, vanilla, "aligned")
    assert (scores["krs"] > 1 - 1e-6).all()


def reference_krs(pair, probe_text, component, layers, n_answer):
    """Forty lines of plain hooks: full forward passes, one probe at a time, copied weights."""
    ids = torch.tensor([probe_text.prompt_ids + probe_text.answer_ids])
    rows = slice(len(probe_text.prompt_ids) - 1, ids.shape[1] - 1)
    states, hooks = {}, []

    def modules(model, layer):
        block = model.model.layers[layer]
        return block.mlp.down_proj, block.self_attn.o_proj

    with torch.no_grad():
        for layer in layers:
            down, out = modules(pair.vanilla, layer)
            hooks.append(
                down.register_forward_pre_hook(
                    lambda m, a, layer=layer: states.__setitem__(("coef", layer), a[0].clone())
                )
            )
            hooks.append(
                out.register_forward_hook(
                    lambda m, a, o, layer=layer: states.__setitem__(("attn", layer), o.clone())
                )
            )
        vanilla = pair.vanilla(ids).logits[0, rows]
        for hook in hooks:
            hook.remove()
        unlearned = pair.unlearned(ids).logits[0, rows]
        hooks = []
        saved = {k: v.clone() for k, v in pair.unlearned.state_dict().items()}
        for layer in layers:
            down, out = modules(pair.unlearned, layer)
            if "coef" in component:
                hooks.append(
                    down.register_forward_pre_hook(lambda m, a, x=states["coef", layer]: (x,))
                )
            if "attn" in component:
                hooks.append(out.register_forward_hook(lambda m, a, o, x=states["attn", layer]: x))
            if component == "values":
                down.weight.copy_(modules(pair.vanilla, layer)[0].weight)
        patched = pair.unlearned(ids).logits[0, rows]
        for hook in hooks:
            hook.remove()
        pair.unlearned.load_state_dict(saved)
    return (
        1
        - ((patched - vanilla).double() ** 2).mean() / ((unlearned - vanilla).double() ** 2).mean()
    )


@pytest.mark.parametrize("component", ["coef", "attn", "coef+attn", "values"])
def test_scores_equal_plain_hooks_without_batches_or_shortcuts(component, probes):
    pair = make_pair()
    answered, _ = answer(pair, probes, n_new_tokens=6)
    done, vanilla, unlearned = measured(pair, probes, [component], size=2)
    layers, values = done.of(component)
    scores = recoveries(values, unlearned, vanilla, "aligned")["krs"]
    for row, layer in enumerate(layers):
        for i, item in enumerate(answered):
            expected = reference_krs(
                pair, item.text, component, window(layer, 2, pair.n_layers), item.n_answer
            )
            assert scores[row, i] == pytest.approx(float(expected), abs=1e-6)


def test_both_models_are_bit_identical_afterwards(probes):
    pair = make_pair()
    before = pair.fingerprints()
    measured(pair, probes, ["coef+attn", "values", "keys"], whole=["all", "embed", "head"])
    assert pair.fingerprints() == before


def test_batches_do_not_change_the_scores(probes):
    pair = make_pair("gpt2")
    together, _, _ = measured(pair, probes, ["coef", "keys"])
    alone, _, _ = measured(pair, probes, ["coef", "keys"], max_tokens=1)
    np.testing.assert_allclose(together.measured, alone.measured, rtol=1e-4, atol=1e-6)


def test_a_sweep_goes_on_where_it_stopped(probes):
    pair = make_pair()
    whole, _, _ = measured(pair, probes, ["coef", "values"])
    kept, seen = {}, []

    class Killed(Exception):
        pass

    def keep(job, places, values):
        held = kept.setdefault((job.component.name, job.centre), {})
        held.update(zip(places, values.tolist(), strict=True))
        if len(kept) == 4:
            raise Killed

    with pytest.raises(Killed):
        measured(pair, probes, ["coef", "values"], keep=keep)
    resumed, _, _ = measured(
        pair,
        probes,
        ["coef", "values"],
        done=kept,
        keep=lambda job, *_: seen.append((job.component.name, job.centre)),
    )
    assert len(seen) == 2
    np.testing.assert_array_equal(resumed.measured, whole.measured)


def test_memory_running_out_halves_the_batch(probes):
    pair = make_pair()
    whole, _, _ = measured(pair, probes, ["coef"])
    answered, _ = answer(pair, probes, n_new_tokens=6)
    sizes = []

    def small(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if len(kwargs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("out of memory")

    handle = pair.unlearned.register_forward_pre_hook(small, with_kwargs=True)
    try:
        jobs = plan(swept(["coef"]), (), n_layers=pair.n_layers, size=1)
        done = sweep(pair, answered, jobs, max_tokens=1000)
    finally:
        handle.remove()
    assert sizes[0] == 3
    np.testing.assert_allclose(done.measured, whole.measured, rtol=1e-4, atol=1e-6)


def test_only_the_chosen_tokens_are_replaced(probes):
    pair = make_pair()
    prompt, _, _ = measured(pair, probes, ["attn"], positions="prompt")
    answers, _, _ = measured(pair, probes, ["attn"], positions="answer")
    whole, _, _ = measured(pair, probes, ["attn"])
    assert not np.allclose(prompt.measured, whole.measured)
    assert not np.allclose(prompt.measured, answers.measured)


def test_unknown_components_are_refused_by_name():
    with pytest.raises(InvalidSetting, match=r"'coeff'.*coef\+attn"):
        swept(["coeff"])
    with pytest.raises(InvalidSetting, match="outside the blocks"):
        swept(["embed"])
    with pytest.raises(InvalidSetting, match="twice"):
        swept(["coef", "coef"])


def test_windows_are_cut_off_at_the_ends():
    assert list(window(0, 5, 8)) == [0, 1, 2]
    assert list(window(4, 5, 8)) == [2, 3, 4, 5, 6]
    assert list(window(7, 5, 8)) == [5, 6, 7]
    assert list(window(3, 1, 8)) == [3]
    assert len(MEASURES) == 9


def adapted(model_type="llama"):
    """A model, the same under an adapter of random weights, and the tokenizer."""
    tiny = tiny_random(model_type)
    model = peft.get_peft_model(copy.deepcopy(tiny.model), lora_config(tiny.model, r=4))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return tiny, model.eval()


def test_an_adapter_pair_scores_as_the_merged_pair(probes):
    tiny, model = adapted()
    merged = ModelPair(tiny.model, copy.deepcopy(model).merge_and_unload(), tiny.tokenizer)
    over = ModelPair(model.get_base_model(), model, tiny.tokenizer)
    assert over.has_adapter
    components, whole = ["coef+attn", "values", "attn_weights"], ["nothing", "all"]
    ours, vanilla, unlearned = measured(over, probes, components, whole=whole)
    expected, _, _ = measured(merged, probes, components, whole=whole)
    np.testing.assert_allclose(ours.measured, expected.measured, rtol=1e-4, atol=1e-5)
    scores = recoveries(ours.whole("all"), unlearned, vanilla, "aligned")
    assert (scores["krs"] == 1).all()


def swept_by(rank, size, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size
    )
    texts = [("ab", " cd"), ("a longer prompt", " x"), ("one two", " three")]
    asked = ProbeSet(Probe(f"p{i}", *text) for i, text in enumerate(texts))
    done, _, _ = measured(make_pair(), asked, ["coef", "values"], max_tokens=1)
    np.save(folder / f"{rank}.npy", done.measured)
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_does(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, size in ((alone, 1), (together, 2)):
        folder.mkdir()
        torch.multiprocessing.spawn(swept_by, (size, folder), nprocs=size)
    expected = np.load(alone / "0.npy")
    assert not np.isnan(expected).any()
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(together / f"{rank}.npy"), expected, atol=1e-6)
