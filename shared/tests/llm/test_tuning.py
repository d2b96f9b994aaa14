import pytest
import torch
from transformers import TrainingArguments

from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import dpo_loss, sequence_logps
from lipogram.llm.tiny import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora, training_args

pytest.importorskip("peft", reason="pip install peft")


def frozen_and_trained(model):
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    return frozen, trained


def assert_only_the_adapter_moved(model, frozen):
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    b = {name: p for name, p in parameters.items() if "lora_B.default" in name}  # not TRL's copy
    assert b
    assert all(p.abs().max() > 0 for p in b.values()), [n for n, p in b.items() if not p.any()]


def test_arguments_run_here_and_report_nowhere(tmp_path):
    args = training_args(TrainingArguments, output_dir=str(tmp_path), learning_rate=1e-3)
    assert args.report_to == []
    assert args.learning_rate == 1e-3
    if not torch.accelerator.is_available():
        assert args.use_cpu
        assert not args.bf16
        assert args.device.type == "cpu"


def test_given_up_names_are_taken_for_the_new(tmp_path, recwarn):
    args = training_args(
        TrainingArguments,
        output_dir=str(tmp_path),
        evaluation_strategy="steps",
        gradient_checkpointing=True,
        no_cuda=True,
        warmup_ratio=0.25,
    )
    assert args.eval_strategy == "steps"
    assert args.activation_checkpointing
    assert args.use_cpu
    assert args.get_warmup_steps(100) == 25
    assert not [w for w in recwarn if "deprecated" in str(w.message)]
    with pytest.raises(InvalidSetting, match="no setting 'lr'"):
        training_args(TrainingArguments, lr=1)
    with pytest.raises(InvalidSetting, match="are one setting"):
        training_args(TrainingArguments, no_cuda=True, use_cpu=True)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox", "phi3", "qwen3"])
@pytest.mark.parametrize("target", ["all-linear", "attn", "mlp"])
def test_adapters_lie_on_the_layers_meant(model_type, target):
    model = tiny_random(model_type, layers=2).model
    adapted = prepare_lora(model, lora_config(model, r=2, target=target), checkpointing=False)
    names = {n.split(".lora_A")[0] for n, _ in adapted.named_parameters() if "lora_A" in n}
    attention = {name for name in names if "attn" in name or "attention" in name}
    assert bool(attention) == (target != "mlp")
    assert bool(names - attention) == (target != "attn")
    assert not any("head" in name or "embed_out" in name for name in names)
    assert len(names) % 2 == 0


def test_settings_of_an_adapter_are_checked():
    model = tiny_random(layers=1).model
    with pytest.raises(InvalidSetting, match="r = 0"):
        lora_config(model, r=0)
    with pytest.raises(InvalidSetting, match="there are all-linear, attn, mlp"):
        lora_config(model, target="q_proj")


@pytest.mark.parametrize("reentrant", [False, True])
def test_every_adapter_gets_a_gradient_under_checkpointing(reentrant):
    loaded = tiny_random(layers=3)
    model = prepare_lora(loaded.model, lora_config(loaded.model, r=2), checkpointing=True)
    frozen, trained = frozen_and_trained(model)
    assert model.get_input_embeddings()(torch.zeros(1, 1, dtype=int)).requires_grad
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    model.train()
    ids = torch.arange(24).view(2, 12)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimiser.step()
    assert trained
    assert_only_the_adapter_moved(model, frozen)


@pytest.fixture(scope="module")
def trl():
    return pytest.importorskip("trl", reason='pip install "trl>=1.16,<2"')


def preferences():
    from datasets import Dataset

    prompts = [f"Name number {i}:" for i in range(8)]
    chosen, rejected = ([f" {word} {i}" for i in range(8)] for word in ("good", "poor"))
    return Dataset.from_dict({"prompt": prompts, "chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_trl_trains_adapters_on_this_machine(trl, kind, tmp_path):
    loaded = tiny_random(layers=2, width=16)
    model = prepare_lora(loaded.model, lora_config(loaded.model, r=2), checkpointing=True)
    frozen, _ = frozen_and_trained(model)
    data = preferences()
    settings = {"output_dir": str(tmp_path), "max_steps": 2, "save_strategy": "no"}
    settings |= {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "disable_tqdm": True}
    common = {"model": model, "processing_class": loaded.tokenizer}
    if kind == "sft":
        data = data.map(lambda row: {"text": row["prompt"] + row["chosen"]})
        args = training_args(trl.SFTConfig, **settings)
        trainer = trl.SFTTrainer(args=args, train_dataset=data.select_columns("text"), **common)
    else:
        args = training_args(trl.DPOConfig, **settings)
        trainer = trl.DPOTrainer(args=args, train_dataset=data, **common)
    assert args.activation_checkpointing  # TRL's default
    trainer.train()
    assert trainer.state.global_step == 2
    assert_only_the_adapter_moved(model, frozen)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_loss_is_that_of_trl(trl, beta, tmp_path):
    policy, vanilla = (tiny_random(layers=2, width=16, seed=seed) for seed in (0, 1))
    trainer = trl.DPOTrainer(
        model=policy.model,
        ref_model=vanilla.model,
        args=training_args(trl.DPOConfig, output_dir=str(tmp_path), beta=beta),
        train_dataset=preferences(),
        processing_class=policy.tokenizer,
    )
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    theirs = trainer.compute_loss(trainer.model, inputs).item()
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    found = []
    for seed in (0, 1):
        model = tiny_random(layers=2, width=16, seed=seed).model
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits
        found.append(sequence_logps(logits, labels)[0].chunk(2))
    ours = dpo_loss(*found[0], *found[1], beta).item()
    # float32 sums of log-probabilities near 50 keep 4e-6 each, and beta multiplies four of them
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
