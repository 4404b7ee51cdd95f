"""Module: attributes, walking, replacing, freezing, modes and files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxr as mx
from mlxr import nn
from mlxr.errors import InvalidValueError
from mlxr.nn.errors import StructureError, UnknownMemberError, WeightsError
from mlxr.utils import tree_flatten, tree_map_with_path


class Net(nn.Module):
    """Layers at all kinds of places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.blocks = [nn.Linear(3, 3, bias=False), nn.Sequential(nn.Linear(3, 2), nn.ReLU())]
        self.heads = {"a": nn.Linear(2, 1), "b": nn.LayerNorm(2)}
        self.scale = mx.array([2.0])
        self.tables = [mx.zeros((2,)), mx.ones((2,))]
        self._hidden = mx.zeros((5,))
        self.shape = (1, 2)
        self.name = "net"

    def __call__(self, x: mx.array) -> mx.array:
        for block in [self.first, *self.blocks]:
            x = block(x)
        return self.heads["a"](self.heads["b"](x)) * self.scale


PARAMETERS = {
    "first.weight",
    "first.bias",
    "blocks.0.weight",
    "blocks.1.layers.0.weight",
    "blocks.1.layers.0.bias",
    "heads.a.weight",
    "heads.a.bias",
    "heads.b.weight",
    "heads.b.bias",
    "scale",
    "tables.0",
    "tables.1",
}


def flat(tree: dict) -> dict:
    return tree_flatten(tree, destination={})


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    return {k: np.array(v) for k, v in flat(model.parameters()).items()}


def require_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


# ---- attributes ----


def test_attributes_are_entries() -> None:
    net = Net()
    assert net["first"] is net.first
    assert net.shape == (1, 2)
    assert "name" not in net
    assert "_hidden" in net
    net.first = None
    assert net.first is None
    assert "first" not in net
    net.first = mx.zeros((1,))
    assert net["first"] is net.first
    del net.first
    assert not hasattr(net, "first")
    with pytest.raises(AttributeError, match="first"):
        _ = net.first
    with pytest.raises(AttributeError, match="first"):
        del net.first


def test_attribute_of_the_class_cannot_be_hidden() -> None:
    with pytest.raises(AttributeError, match="items"):
        Net().items = [1]


def test_error_in_a_property_is_not_hidden() -> None:
    class Broken(nn.Module):
        @property
        def value(self) -> int:
            return self.nowhere

    with pytest.raises(AttributeError, match="nowhere"):
        _ = Broken().value


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent(copied) -> None:
    net = Net().freeze(keys="bias").eval()
    twin = copied(net)
    require_same(arrays(net), arrays(twin))
    assert not twin.training
    assert flat(twin.trainable_parameters()).keys() == flat(net.trainable_parameters()).keys()
    twin.first.weight = mx.zeros((3, 4))
    assert np.abs(arrays(net)["first.weight"]).max() > 0


# ---- walking ----


def test_parameters() -> None:
    net = Net()
    assert set(flat(net.parameters())) == PARAMETERS
    assert set(flat(net.trainable_parameters())) == PARAMETERS
    assert net.parameters()["blocks"][1] == {"layers": [net.blocks[1].layers[0].parameters(), {}]}
    assert net.state is net


def test_modules() -> None:
    net = Net()
    names = [name for name, _ in net.named_modules()]
    assert names == [
        "",
        "heads.b",
        "heads.a",
        "blocks.1",
        "blocks.1.layers.1",
        "blocks.1.layers.0",
        "blocks.0",
        "first",
    ]
    assert all(a is b for a, (_, b) in zip(net.modules(), net.named_modules(), strict=True))
    leaves = tree_flatten(net.leaf_modules(), is_leaf=nn.Module.is_module)
    assert {name for name, _ in leaves} == set(names) - {"", "blocks.1"}
    assert {name for name, _ in tree_flatten(net.children(), is_leaf=nn.Module.is_module)} == {
        "first",
        "blocks.0",
        "blocks.1",
        "heads.a",
        "heads.b",
    }


def test_filter_and_map() -> None:
    net = Net()
    shapes = net.filter_and_map(
        lambda m, k, v: nn.Module.valid_parameter_filter(m, k, v) and not k.endswith("bias"), lambda v: v.shape
    )
    assert shapes["first"] == {"weight": (3, 4)}
    assert shapes["tables"] == [(2,), (2,)]
    with pytest.raises(StructureError):
        net.filter_and_map(lambda m, k, v: True, is_leaf_fn=lambda m, k, v: False)


def test_apply() -> None:
    net = Net()
    assert net.apply(lambda p: p * 0) is net
    assert all(not a.any() for a in arrays(net).values())
    net.apply(lambda p: p + 1, lambda m, k, v: nn.Module.valid_parameter_filter(m, k, v) and k != "bias")
    assert {k for k, a in arrays(net).items() if a.all()} == {k for k in PARAMETERS if not k.endswith("bias")}


def test_set_dtype() -> None:
    net = Net()
    net.index = mx.array([1, 2])
    net.set_dtype(mx.float16)
    assert {str(p.dtype) for k, p in flat(net.parameters()).items() if k != "index"} == {str(mx.float16)}
    assert net.index.dtype == mx.int32
    net.set_dtype(mx.float32, None)
    assert net.index.dtype == mx.float32


# ---- replacing ----


def test_update_replaces_in_part() -> None:
    net = Net()
    before = arrays(net)
    new = mx.zeros((3, 4))
    assert net.update({"first": {"weight": new}, "blocks": [{}, {"layers": [{"bias": mx.ones((2,))}]}]}) is net
    assert net.first.weight is new
    after = arrays(net)
    changed = {k for k in PARAMETERS if not np.array_equal(before[k], after[k])}
    assert changed == {"first.weight", "blocks.1.layers.0.bias"}


BAD_UPDATES = [
    {"first": {"weight": 1}},
    {"first": {"weights": mx.zeros((1,))}},
    {"first": [mx.zeros((1,))]},
    {"first": mx.zeros((1,))},
    {"second": {"weight": mx.zeros((1,))}},
    {"tables": [{}, {}, mx.zeros((2,))]},
    {"blocks": [{}, {}, {"weight": mx.zeros((1,))}]},
    {"name": mx.zeros((1,))},
]


@pytest.mark.parametrize("number", range(len(BAD_UPDATES)))
def test_update_is_all_or_nothing(number: int) -> None:
    net = Net()
    before = arrays(net)
    with pytest.raises(StructureError):
        net.update({"scale": mx.array([5.0]), **BAD_UPDATES[number]})
    require_same(before, arrays(net))


@pytest.mark.parametrize("number", range(1, len(BAD_UPDATES)))
def test_update_that_is_not_strict_takes_what_fits(number: int) -> None:
    net = Net()
    before = arrays(net)
    net.update({"scale": mx.array([5.0]), **BAD_UPDATES[number]}, strict=False)
    require_same({**before, "scale": np.array([5.0], np.float32)}, arrays(net))


def test_update_modules() -> None:
    net = Net()
    new = nn.Linear(4, 3, bias=False)
    assert net.update_modules({"first": new, "blocks": [{}, {"layers": [nn.Identity()]}]}) is net
    assert net.first is new
    assert isinstance(net.blocks[1].layers[0], nn.Identity)
    for bad in ({"second": new}, {"first": 1}, {"blocks": [{}, {}, new]}, [new], {"scale": new}):
        with pytest.raises(StructureError):
            net.update_modules(bad)
    net.update_modules({"second": new, "first": nn.Identity()}, strict=False)
    assert isinstance(net.first, nn.Identity)
    assert "second" not in net


# ---- freezing ----


def trainable(net: nn.Module) -> set[str]:
    return set(flat(net.trainable_parameters()))


def test_freeze_and_unfreeze() -> None:
    net = Net()
    assert net.freeze() is net
    assert trainable(net) == set()
    assert set(flat(net.parameters())) == PARAMETERS
    assert net.unfreeze(keys="bias") is net
    assert trainable(net) == {k for k in PARAMETERS if k.endswith("bias")}
    net.unfreeze()
    assert trainable(net) == PARAMETERS
    net.freeze(recurse=False)
    assert trainable(net) == PARAMETERS - {"scale", "tables.0", "tables.1"}
    net.unfreeze().freeze(keys=["weight", "scale"])
    assert trainable(net) == {k for k in PARAMETERS if k.endswith("bias")} | {"tables.0", "tables.1"}


def test_freeze_strict() -> None:
    net = Net()
    net.freeze(keys="bias", strict=True)
    for change in (net.freeze, net.unfreeze):
        with pytest.raises(UnknownMemberError, match="'biases'") as raised:
            change(keys=["weight", "biases"], strict=True)
        assert raised.value.name == "biases"
        with pytest.raises(KeyError):
            change(keys="bias", strict=True, recurse=False)
    assert trainable(net) == {k for k in PARAMETERS if not k.endswith("bias")}
    net.freeze(keys="biases")
    assert trainable(net) == {k for k in PARAMETERS if not k.endswith("bias")}


def test_frozen_parameters_get_no_gradients() -> None:
    net = Net().freeze(keys="weight")
    _, gradients = nn.value_and_grad(net, lambda x: net(x).sum())(mx.ones((2, 4)))
    assert set(flat(gradients)) == trainable(net)


def test_modes() -> None:
    net = Net()
    assert net.training
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())


# ---- transforms ----


def test_value_and_grad_leaves_the_model_its_parameters() -> None:
    net = Net()
    before = flat(net.parameters())

    def loss(x: mx.array, factor: float = 1.0) -> tuple[mx.array, mx.array]:
        y = net(x) * factor
        return y.sum(), y

    (value, y), gradients = nn.value_and_grad(net, loss)(mx.ones((2, 4)), factor=3.0)
    np.testing.assert_allclose(np.array(value), np.array(y).sum(), rtol=1e-6)
    assert set(flat(gradients)) == PARAMETERS
    assert all(flat(net.parameters())[name] is array for name, array in before.items())

    def fails(x: mx.array) -> mx.array:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        nn.value_and_grad(net, fails)(mx.ones((2, 4)))
    assert all(flat(net.parameters())[name] is array for name, array in before.items())


def test_value_and_grad_follows_freezing() -> None:
    net = Net()
    function = nn.value_and_grad(net, lambda x: net(x).sum())
    net.freeze()
    net.heads["a"].unfreeze()
    assert set(flat(function(mx.ones((2, 4)))[1])) == {"heads.a.weight", "heads.a.bias"}


def test_checkpoint_has_the_same_gradients() -> None:
    net = Net()
    x = mx.array(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32))
    plain = nn.value_and_grad(net, lambda x: net(x).sum())(x)
    kept = nn.value_and_grad(net, lambda x: nn.utils.checkpoint(net)(x).sum())(x)
    np.testing.assert_allclose(np.array(plain[0]), np.array(kept[0]), rtol=1e-6)
    expected, found = flat(plain[1]), flat(kept[1])
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(np.array(gradient), np.array(found[name]), rtol=1e-5, atol=1e-6, err_msg=name)
    by_input = mx.grad(lambda x: nn.utils.checkpoint(net, lambda x: net(x) * 2)(x).sum())(x)
    np.testing.assert_allclose(
        np.array(by_input), np.array(mx.grad(lambda x: (net(x) * 2).sum())(x)), rtol=1e-5, atol=1e-6
    )


# ---- files ----


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_weights_go_through_files(tmp_path: Path, extension: str) -> None:
    net, other = Net(), Net()
    file = tmp_path / f"net.{extension}"
    net.save_weights(str(file))
    assert other.load_weights(str(file)) is other
    require_same(arrays(net), arrays(other))
    require_same(arrays(net), arrays(Net().load_weights(file)))
    require_same(arrays(net), arrays(Net().load_weights(list(flat(net.parameters()).items()))))


def test_save_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError) as raised:
        Net().save_weights(str(tmp_path / "net.bin"))
    assert raised.value.file.endswith("net.bin")
    assert list(tmp_path.iterdir()) == []


def test_strict_loading_says_all_that_is_wrong() -> None:
    net = Net()
    before = arrays(net)
    weights = flat(Net().parameters())
    del weights["first.bias"], weights["scale"]
    weights["first.extra"] = mx.zeros((1,))
    weights["heads.a.weight"] = mx.zeros((1, 3))
    weights["tables.0"] = [0.0, 0.0]
    with pytest.raises(WeightsError) as raised:
        net.load_weights(list(weights.items()))
    error = raised.value
    assert isinstance(error, ValueError)
    assert error.missing == ["first.bias", "scale"]
    assert error.unexpected == ["first.extra"]
    assert sorted(error.mismatched) == ["heads.a.weight", "tables.0"]
    for name in ("first.bias", "scale", "first.extra", "heads.a.weight", "(1, 3)", "tables.0", "list"):
        assert name in str(error)
    require_same(before, arrays(net))
    assert pickle.loads(pickle.dumps(error)).missing == error.missing


def test_loading_that_is_not_strict_takes_what_fits() -> None:
    net = Net()
    before = arrays(net)
    weights = [
        ("scale", mx.array([7.0])),
        ("nowhere.0.weight", mx.zeros((1,))),
        ("blocks.99999999999.w", mx.zeros((1,))),
    ]
    net.load_weights(weights, strict=False)
    require_same({**before, "scale": np.array([7.0], np.float32)}, arrays(net))
    net.load_weights([], strict=False)
    with pytest.raises(WeightsError):
        net.load_weights([])


# ---- properties ----

NAMES = st.sampled_from(["a", "b", "weight", "bias"])


class Holder(nn.Module):
    """A module with given entries."""

    def __init__(self, entries: dict) -> None:
        super().__init__()
        for name, value in entries.items():
            self[name] = value


models = st.recursive(
    st.builds(lambda names: Holder({name: mx.array([0.0]) for name in names}), st.sets(NAMES, min_size=1)),
    lambda below: st.builds(
        Holder,
        st.dictionaries(
            NAMES, st.one_of(below, st.lists(below, max_size=2), st.dictionaries(NAMES, below, max_size=2)), min_size=1
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(models)
def test_numbered_parameters_come_back(model: nn.Module) -> None:
    names = sorted(flat(model.parameters()))
    model.load_weights([(name, mx.array([float(i)])) for i, name in enumerate(names)])
    assert [flat(model.parameters())[name].item() for name in names] == list(range(len(names)))
    twin = copy.deepcopy(model).apply(lambda p: p - 1)
    twin.update(model.parameters())
    assert [flat(twin.parameters())[name].item() for name in names] == list(range(len(names)))


@settings(max_examples=50, deadline=None)
@given(models, st.lists(NAMES, max_size=2))
def test_freezing_divides_the_parameters(model: nn.Module, keys: list[str]) -> None:
    everything = set(flat(model.parameters()))
    arrays_named = {name for name in everything if name.split(".")[-1] in keys}
    model.freeze(keys=keys)
    assert trainable(model) <= everything - arrays_named
    model.unfreeze(keys=keys)
    assert trainable(model) == everything
    model.freeze().unfreeze(keys=keys)
    assert trainable(model) == arrays_named
    assert set(flat(model.parameters())) == everything


@settings(max_examples=50, deadline=None)
@given(models, st.data())
def test_update_changes_what_it_names(model: nn.Module, data: st.DataObject) -> None:
    everything = sorted(flat(model.parameters()))
    chosen = {name for name in everything if data.draw(st.booleans())}
    part = model.filter_and_map(nn.Module.valid_parameter_filter)
    model.update(tree_map_with_path(lambda path, p: p + 1 if path in chosen else {}, part))
    assert {name for name, p in flat(model.parameters()).items() if p.item() == 1} == chosen
