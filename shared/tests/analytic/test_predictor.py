"""The head as an exported module, and what it says about itself."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from lipogram.analytic import AnalyticClassifier, ClassStatistics, GaussianKernelBuffer

GENERATOR = np.random.default_rng(1)
Y = GENERATOR.integers(0, 3, size=90)
X = (GENERATOR.normal(size=(90, 6)) + 2 * GENERATOR.normal(size=(3, 6))[Y]).astype(np.float32)


def gaussian():
    feature_map = GaussianKernelBuffer.from_rows(torch.from_numpy(X), 20, sigma=3.0)
    sums = ClassStatistics(20, pooled=True, feature_map=feature_map).update(X, Y)
    return AnalyticClassifier(gamma=1.0).adopt(sums)


MODELS = {
    "no buffer": lambda: AnalyticClassifier(gamma=1.0).fit(X, Y),
    "intercept": lambda: AnalyticClassifier(gamma=1.0, fit_intercept=True).fit(X, Y),
    "relu": lambda: AnalyticClassifier(gamma=1.0, buffer_size=20).fit(X, Y),
    "gelu": lambda: AnalyticClassifier(gamma=1.0, buffer_size=20, activation="gelu").fit(X, Y),
    "gaussian": gaussian,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def assert_same(model, scores):
    expected = model.decision_function(X)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.classes_[np.argmax(scores, 1)], model.predict(X))


def test_module(model):
    module = model.as_module()
    assert_same(model, module(torch.from_numpy(X)).detach().numpy())
    assert not module.training
    assert {value.dtype for value in module.state_dict().values()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript(model, how, tmp_path):
    module = model.as_module()
    made = (
        torch.jit.script(module)
        if how == "script"
        else torch.jit.trace(module, torch.from_numpy(X[:2]))
    )
    torch.jit.save(made, tmp_path / "head.pt")
    loaded = torch.jit.load(tmp_path / "head.pt")
    assert_same(model, loaded(torch.from_numpy(X)).detach().numpy())


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
def test_onnx(model, tmp_path):
    remedy = "pip install onnx onnxscript"
    onnx = pytest.importorskip("onnx", reason=remedy)
    pytest.importorskip("onnxscript", reason=remedy)
    torch.onnx.export(
        model.as_module(),
        (torch.from_numpy(X),),
        tmp_path / "head.onnx",
        dynamo=True,
        verbose=False,
        input_names=["features"],
    )
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        run = ReferenceEvaluator(onnx.load(tmp_path / "head.onnx")).run
    else:
        run = onnxruntime.InferenceSession(tmp_path / "head.onnx").run
    assert_same(model, run(None, {"features": X})[0])


def test_a_backbone_comes_first_and_is_put_into_evaluation_mode():
    backbone = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(12, 6))
    images = torch.randn(50, 3, 2, 2)
    backbone.eval()
    features = backbone(images).detach()
    model = AnalyticClassifier(buffer_size=16).fit(features, Y[:50])
    backbone.train()
    scores = model.as_module(backbone)(images).detach().numpy()
    np.testing.assert_allclose(scores, model.decision_function(features), rtol=1e-4, atol=1e-4)


def test_two_classes():
    two = Y < 2
    model = AnalyticClassifier().fit(X[two], Y[two])
    scores = model.decision_function(X)
    assert scores.shape == (90,)
    np.testing.assert_array_equal(model.predict(X), model.classes_[(scores > 0).astype(int)])
    assert model.as_module()(torch.from_numpy(X)).shape == (90, 2)


def test_probabilities_are_a_softmax_of_the_scores(model):
    scores = model.decision_function(X)
    shares = model.predict_proba(X)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(
        np.log(shares[:, 1:] / shares[:, :1]), scores[:, 1:] - scores[:, :1], atol=1e-9
    )


def test_what_it_knows():
    model = AnalyticClassifier(gamma=2.0, buffer_size=11, fit_intercept=True).fit(X, Y)
    assert model.coef_.shape == (3, 11)
    assert model.intercept_.shape == (3,)
    assert model.class_count_.tolist() == np.bincount(Y).tolist()
    assert model.class_count_.dtype == np.int64
    assert model.n_samples_seen_ == 90
    assert model.gamma_ == 2.0
    assert model.condition_ >= 1
    assert model.nbytes_ > 0
    assert model.buffer_.out_features == 11


@pytest.mark.parametrize(
    "name",
    [
        "classes_",
        "coef_",
        "intercept_",
        "class_count_",
        "n_samples_seen_",
        "gamma_",
        "condition_",
        "nbytes_",
        "buffer_",
    ],
)
def test_before_fit(name):
    with pytest.raises(NotFittedError, match="call fit or partial_fit"):
        getattr(AnalyticClassifier(), name)


def test_the_row_that_is_no_number_is_named_when_predicting():
    model = AnalyticClassifier().fit(X, Y)
    rows = np.tile(X, (40, 1))
    rows[2500, 1] = np.nan
    with pytest.raises(ValueError, match="NaN in row 2500"):
        model.predict(rows)
