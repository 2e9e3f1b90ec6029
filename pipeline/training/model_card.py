"""The model card of an export: what it is, how good it is, and how to use it.

Sections after Mitchell et al., “Model Cards for Model Reporting”, FAT* 2019; the header is that of Hugging Face.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.errors import counted
from pipeline.predictions.calibration import OofTemperature
from pipeline.predictions.manifests import flattered_by, folds_in_words, stages_in_words
from pipeline.training.averaged import AverageCheck
from pipeline.training.predict import FoldModels

SCRIPT = "predict.py"
_ONNX = """\
import json, sys
import cv2, numpy as np, onnxruntime
from PIL import Image, ImageOps

def read(path):
    image = Image.open(path)
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # 16 bits a pixel
        image = Image.fromarray(np.clip(np.rint(np.asarray(image) / 257), 0, 255).astype(np.uint8))
    image = image.convert("RGBA")  # what is transparent is seen on white
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))

def resized(picture, height, width):
    shrinks = height * width <= picture.shape[0] * picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)[None]

model, picture = json.load(open("model.json", encoding="utf-8")), read(sys.argv[1])
found = []
for file in model["files"]:
    if file["name"].endswith(".onnx"):
        pictures = resized(picture, *file["size"])
        found.append(onnxruntime.InferenceSession(file["name"]).run(None, {"pictures": pictures})[0][0])
probabilities = np.mean(found, axis=0)
for number in probabilities.argsort()[::-1][:3]:
    print(f"{probabilities[number]:.4f}  {model['classes'][number]}")
"""
_KERAS = (
    _ONNX.replace("cv2, numpy as np, onnxruntime", "cv2, keras, numpy as np")
    .replace(".onnx", ".keras")
    .replace(
        'onnxruntime.InferenceSession(file["name"]).run(None, {"pictures": pictures})[0][0]',
        'keras.saving.load_model(file["name"]).predict_on_batch(pictures)[0]',
    )
)


def script(files: Sequence[str]) -> str:
    """A program that predicts a picture by these model files: by ONNX Runtime where there are ONNX files."""
    return _ONNX if any(name.endswith(".onnx") for name in files) else _KERAS


def model_card(
    models: FoldModels, *, files: Sequence[str], average: AverageCheck | None, temperature: OofTemperature | None
) -> str:
    """The card as Markdown.

    Args:
        models: Those that the files are, or are the average of.
        files: Names of the model files.
        average: What is known of the averaged model, where it is one.
        temperature: Fitted on the plain OOF predictions; None where it cannot be, or for an average.
    """
    manifest = models.stored.manifest
    kinds = sorted({name.rpartition(".")[2] for name in files})
    header = {
        "library_name": kinds[0],
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", models.recipe.backbone, *kinds],
        "metrics": [manifest["metric"]],
    }
    folds, is_onnx = list(models.weights), "onnx" in kinds
    packages = "onnxruntime" if is_onnx else "keras tensorflow"
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {manifest['experiment']} on {manifest['competition']}",
        _what(models, folds, average),
        "## Use",
        f"`pip install {packages} numpy opencv-python-headless pillow`, then `python {SCRIPT} PICTURE` in this folder. "
        f"This is all of `{SCRIPT}`:",
        f"```python\n{script(files)}```",
        "`.keras` files hold Keras' own layers alone and load with `keras.saving.load_model(file, safe_mode=True)`.",
        "- Input `pictures`: RGB, uint8 0..255, shape (batch, height, width, 3), turned as the EXIF says and "
        f"stretched to {_sizes(models)}, the size of the stage that the network ended on; another size "
        "runs, too, but has not been scored. The preprocessing is inside.\n"
        "- `read` and the resizing give the pixels that the network was trained and scored on. What they cannot: a "
        "picture whose EXIF block is damaged is an error, and one of 32 bits a pixel that holds values below 256 "
        "becomes nearly black.\n"
        f"- Output `probabilities`: float32, shape (batch, {len(models.stored.classes)}), "
        + ("each row sums to one" if models.competition.target == "single" else "each class by itself")
        + f", in the order of the classes below. {_calibrated(average, temperature)}",
        "## Score",
        _score(models, folds),
        *([] if average is None else [_averaged(manifest["metric"], average)]),
        "## Classes",
        "\n".join(f"{number}. {name}" for number, name in enumerate(models.stored.classes)),
        "## Training",
        f"{_stages(manifest)}, {manifest['oof_rows']} pictures held out once each in {_count(models)}"
        + (f" ({folds_in_words(manifest)} are trained). " if manifest["missing_folds"] else ". ")
        + f"Made on {manifest['created']} with {', '.join(f'{k} {v}' for k, v in manifest['versions'].items())}; "
        f"fingerprint of the recipe {manifest['fingerprint']}.",
        f"```yaml\n{yaml.safe_dump(manifest['recipe'], sort_keys=False, allow_unicode=True)}```",
        "## Limits",
        "The scores hold for pictures like those of the competition. A picture of something else gets one of the "
        f"classes all the same, perhaps with a high probability.{_flattered(manifest)}\n\n"
        "Which licence the pictures and the pretrained weights have, and what it allows for a model made of them, is "
        "not said here: look it up before you pass the model on, and add `license:` to the header.",
    ]
    return "\n\n".join(sections) + "\n"


def _calibrated(average: AverageCheck | None, temperature: OofTemperature | None) -> str:
    if average is not None:
        return "They are not calibrated: for a temperature there is no picture that is new to this model."
    if temperature is None:
        return (
            "They are not calibrated: no temperature is fitted where every OOF row is right, or a picture may have "
            "several labels."
        )
    if not temperature.helps:
        return "They are not calibrated: a temperature fitted to the OOF predictions does not lower their ECE."
    return (
        f"They are not calibrated: the temperature that fits the OOF predictions, {temperature.value:.3f}, is not in "
        "the files. `p ** (1 / temperature)`, each row divided by its sum, applies it to the probabilities of a fold's "
        f"file, before any mean; the ECE of such a file goes from {temperature.error_before:.4f} to "
        f"{temperature.error_after:.4f}."
    )


def _known_folds(models: FoldModels) -> int:
    """How many the experiment has, exported or not."""
    return len(models.stored.manifest["fold_scores"])


def _count(models: FoldModels) -> str:
    number = _known_folds(models)
    return "1 fold" if number == 1 else f"{number} folds"


def _flattered(manifest: Mapping[str, Any]) -> str:
    chosen = {
        "epochs": "each stage kept the epoch that did best",
        "stages": "a stage was left aside where an earlier one did better",
    }
    named = " and ".join(chosen[what] for what in flattered_by(manifest))
    return f" {named[0].upper()}{named[1:]} on the held-out fold, which flatters the scores a little." if named else ""


def _stages(manifest: Mapping[str, Any]) -> str:
    kept = stages_in_words(manifest)
    return counted(len(manifest["stages"]), "stage", "stages") + f" (kept: {kept})" * bool(kept)


def _sizes(models: FoldModels) -> str:
    """The one size of all of them, or that of each."""
    sizes = {fold: f"{height}×{width}" for fold, (height, width) in models.sizes.items()}
    found = sorted(set(sizes.values()))
    named = found[0] if len(found) == 1 else ", ".join(f"{size} for fold {fold}" for fold, size in sizes.items())
    return f"{named} (height × width)"


def _what(models: FoldModels, folds: Sequence[int], average: AverageCheck | None) -> str:
    classifier = (
        f"An image classifier for {len(models.stored.classes)} classes: {models.recipe.backbone}, trained from "
        f"{'random' if models.recipe.weights == 'none' else 'pretrained'} weights."
    )
    if average is not None:
        return f"{classifier} This one model has the mean of the weights of the {len(folds)} fold models."
    if len(folds) == 1:
        return f"{classifier} This is the model of fold {folds[0]}, trained without the pictures of that fold."
    which = f", here of {len(folds)} of the {_known_folds(models)} folds" if _is_part(models, folds) else ""
    return (
        f"{classifier} A file a fold{which}: each model was trained without the pictures of its fold. "
        "Average the probabilities of all of them, as below."
    )


def _is_part(models: FoldModels, folds: Sequence[int]) -> bool:
    return len(folds) != _known_folds(models)


def _score(models: FoldModels, folds: Sequence[int]) -> str:
    """The scores of these folds' models; that of all of them is the score of no part."""
    manifest, with_tta = models.stored.manifest, models.stored.manifest["tta_score"] is not None
    header, rows = [f"fold {fold}" for fold in folds], {"plain": "", **({"with TTA": "tta_"} if with_tta else {})}
    cells = {name: [manifest[f"{key}fold_scores"][str(fold)] for fold in folds] for name, key in rows.items()}
    if not _is_part(models, folds):
        header = ["OOF", "± standard error", *header]
        cells = {
            name: [manifest[f"{key}score"], manifest[f"{key}score_se"], *cells[name]] for name, key in rows.items()
        }
    lines = [
        f"| {manifest['metric']} | {' | '.join(header)} |",
        "|---" * (1 + len(header)) + "|",
        *(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |" for name, values in cells.items()),
    ]
    text = "Every training picture was predicted by the model that never saw it."
    if _is_part(models, folds):
        text = (
            f"Scored on the pictures of {'its' if len(folds) == 1 else 'each'} fold, which the model never saw. The "
            f"{_known_folds(models)} fold models of the experiment together have an OOF {manifest['metric']} of "
            f"{manifest['score']:.4f} ± {manifest['score_se']:.4f}."
        )
    if len(folds) > 1:
        text += " The mean of the fold models has no score of its own, and is usually better than one of them."
    if with_tta:
        views = ", ".join(models.recipe.tta.views)
        text += f" TTA is the mean over the plain picture and its views ({views}); it is not in the files."
    return "\n".join(lines) + "\n\n" + text


def _averaged(metric: str, check: AverageCheck) -> str:
    text = (
        "**These are the scores of the fold models. The score of this averaged model is not known**: every training "
        "picture was seen by all of its members but one, so none is left to score it on. On those pictures its "
        f"{metric} is {check.bound:.4f} ± {check.bound_se:.4f}, which is too good; it would not have been exported if "
        f"even that were worse than the fold models' {check.oof:.4f} by more than the difference's error (the "
        f"difference is {check.gain:+.4f} ± {check.gain_se:.4f}, plus is better)."
    )
    if check.test_agreement is not None:
        text += (
            " On the test pictures, which none of the models has seen, it gives the class that the mean of the fold "
            f"models gives for {check.test_agreement:.1%}; a single fold model does for {check.members_agreement:.1%}."
        )
    return text
