"""Handwritten digits, from raw data to production: ``python -m replica.metadata.examples.digits ENDPOINTS [--dot]``.

The data is scikit-learn's bundled set of 1797 images of 8 × 8 pixels. What an ordinary project does is done once:

1. The images and their labels become a dataset and an annotation, a split says which are for training and which for
   tests, and a package pins all three. Their digests are those of the bytes.
2. Several models are trained on the package, as runs of one experiment, with their learning curves as metrics. One of
   the trainings fails, and that is all that is left of it.
3. The best model is found and becomes ``digits-production``, by comparison with what was there before.
4. The lineage of that model leads back to the bytes.

``memory:`` instead of ENDPOINTS keeps everything in this process. Running it again on the same store makes new versions
and a new experiment.
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from replica.client import connect
from replica.metadata import Artifact, Lineage, Metadata, NotFound
from replica.metadata.picture import dot, tree

PRODUCTION = "digits-production"
EPOCHS = 5
RATES = (1e-5, 1e-4, 1e-2)
REFUSED = -1.0
"""A rate that scikit-learn refuses."""

Array = np.ndarray[Any, Any]


def digest(array: Array) -> str:
    """The digest of an array's bytes."""
    return "sha256:" + hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def define_types(md: Metadata) -> None:
    """The types of this project; saying them again changes nothing."""
    md.define_type(
        "DigitModel",
        properties={"accuracy": float, "alpha": float, "epochs": int},
        index=["accuracy"],
        description="a linear classifier of digits",
    )
    md.define_type("TrainDigits", kind="execution", properties={"alpha": float})


def publish_data(md: Metadata, images: Array, labels: Array) -> Artifact:
    """Dataset, annotation, split and package; returns the package."""
    source = "sklearn:digits"
    shape = {"rows": len(images), "columns": images.shape[1]}
    data = md.publish(md.draft("dataset", "digits", uri=source, digest=digest(images), properties=shape))
    marks = md.publish(md.draft("annotation", "digits-labels", of=[data], uri=source, digest=digest(labels)))
    rule = {"test_share": 0.25, "seed": 7}
    split = md.publish(md.draft("split", "digits-split", of=[data], properties=rule), bump="patch")
    return md.package("digits-train", [data, marks, split])


def train(md: Metadata, package: Artifact, experiment: str, alpha: float, arrays: list[Array]) -> None:
    """One training, tracked."""
    train_x, test_x, train_y, test_y = arrays
    settings = {"alpha": alpha}
    with md.execution("TrainDigits", inputs={"data": package}, context=experiment, properties=settings) as run:
        model = SGDClassifier(alpha=alpha, random_state=7)
        accuracy = 0.0
        for epoch in range(EPOCHS):
            model.partial_fit(train_x, train_y, classes=np.arange(10))
            accuracy = float(model.score(test_x, test_y))
            run.log(epoch, {"accuracy": accuracy, "train accuracy": float(model.score(train_x, train_y))})
        run.output(
            "DigitModel",
            role="model",
            uri=f"file:///models/{experiment}/{alpha:g}",
            digest=digest(model.coef_),
            properties={"accuracy": accuracy, "alpha": alpha, "epochs": EPOCHS},
        )


def promote(md: Metadata, experiment: str) -> Artifact:
    """Put the best model of the experiment into production, if it is better than what is there; returns what is."""
    best = md.find("DigitModel", f"context = '{experiment}'", order_by="-properties.accuracy", limit=1)[0]
    try:
        current: Artifact | None = md.resolve(PRODUCTION)
    except NotFound:
        current = None
    if current is None or best.properties["accuracy"] > current.properties["accuracy"]:
        md.alias(PRODUCTION, best, if_current=current)
    return md.resolve(PRODUCTION)


def project(md: Metadata) -> Lineage:
    """All of it; returns the lineage of the model in production."""
    define_types(md)
    digits = load_digits()
    package = publish_data(md, digits.data, digits.target)
    arrays = train_test_split(digits.data / 16, digits.target, test_size=0.25, random_state=7)
    experiment = f"digits {package.version}"
    for alpha in RATES:
        train(md, package, experiment, alpha, arrays)
    # What fails is not hidden: the execution is FAILED, with the reason, and has made nothing.
    with suppress(ValueError):
        train(md, package, experiment, REFUSED, arrays)
    return md.lineage(promote(md, experiment), direction="up")


def main(arguments: list[str]) -> int:
    """``ENDPOINTS [--dot]``; returns the exit status."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m replica.metadata.examples.digits ENDPOINTS [--dot]\n")
        return 2
    with connect(arguments[0]) as store:
        md = Metadata(store)
        found = project(md)
        if arguments[1:] == ["--dot"]:
            sys.stdout.write(dot(found))
            return 0
        for run in md.find("TrainDigits", order_by="created"):
            sys.stdout.write(f"{run.label} alpha={run.properties['alpha']:g} {getattr(run, 'state', '')}\n")
        sys.stdout.write("\n".join(tree(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
