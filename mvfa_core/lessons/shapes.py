"""The numbers behind the pictures: how large everything is, on the demo and in the paper's setting."""

from dataclasses import dataclass

import pandas as pd

from mvfa_core.experiment import Experiment


@dataclass(frozen=True)
class Shapes:
    """image and patch: sides in pixels. width: of a token. text: D, of a text feature. levels: block numbers."""

    image: int
    patch: int
    width: int
    text: int
    depth: int
    levels: tuple[int, ...]

    @classmethod
    def of(cls, experiment: Experiment) -> "Shapes":
        backbone = experiment.backbone
        widths = (backbone.widths[0], backbone.text_width, backbone.depth)
        return cls(backbone.image_size, backbone.stride, *widths, experiment.levels)

    @property
    def side(self) -> int:
        """Patches along one side of the image."""
        return self.image // self.patch

    @property
    def patches(self) -> int:
        return self.side**2

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.patches + 1

    @property
    def adapter_weights(self) -> int:
        """Of all levels: two adapters a level, two matrices an adapter."""
        return len(self.levels) * 2 * 2 * self.width * self.text


# ViT-L/14-336 run at 240 px (MVFA paper, section 4)
PAPER = Shapes(image=240, patch=14, width=1024, text=768, depth=24, levels=(6, 12, 18, 24))


def route(shapes: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    """What an image becomes on its way through the frozen model, with the shape of each station."""
    return [
        ("image", (3, shapes.image, shapes.image)),
        ("patches", (shapes.patches, 3, shapes.patch, shapes.patch)),
        ("tokens before block 1", (shapes.tokens, shapes.width)),
        ("tokens behind the last block", (shapes.tokens, shapes.width)),
        ("patch features in text space", (shapes.patches, shapes.text)),
        ("pooled image feature", (shapes.text,)),
        ("text features, normal and abnormal", (shapes.text, 2)),
        ("abnormal probability of each patch", (shapes.side, shapes.side)),
        ("anomaly map", (shapes.image, shapes.image)),
        ("score", ()),
    ]


def written(shape: tuple[int, ...]) -> str:
    """`3 x 96 x 96`, and `one number` for a scalar."""
    return " × ".join(map(str, shape)) or "one number"


def route_table(experiment: Experiment) -> pd.DataFrame:
    """The stations of `route`, one a row, for the demo's model and for the paper's."""
    columns = {"demo": Shapes.of(experiment), "paper (ViT-L/14, 240 px)": PAPER}
    return pd.DataFrame(
        {
            name: {station: written(shape) for station, shape in route(shapes)}
            for name, shapes in columns.items()
        }
    )
