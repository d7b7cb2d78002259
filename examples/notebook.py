"""The six verbs from Python, as in a notebook: every verb is a function that returns a small dataclass.

python examples/notebook.py SLIDES LABELS.csv STORE
"""

# %%
import sys

import numpy as np
from sklearn.decomposition import PCA

import gigacli as giga

slides, labels, path = sys.argv[1:4]

# %% From slides to a bank. Options are those of the command line; what is done is skipped.
print(giga.tile(path, slides, mpp=1.0, tile_px=128))
print(giga.bank(path, encoder="random-resnet18", augmentations=4, draws=16))

# %% Train, embed, probe.
print(giga.train(path, epochs=20))
print(giga.embed(path, views=50))
result = giga.probe(path, labels, folds=2)
for row in result.scores:
    print(f"{row.embedding:25s} C={row.c:5s} AUC {row.auc_mean:.3f}")

# %% The vectors are plain arrays.
store = giga.open(path)
print(store)
embedding = store.embedding("giga")
vectors = embedding.read()  # (slide, feature) float32
have = embedding.done().rows  # of the slides that have a vector
plane = PCA(2).fit_transform(vectors[have])
for slide_id, (x, y) in zip(np.array(store.slides.ids)[have], plane, strict=True):
    print(f"{slide_id:25s} {x:6.3f} {y:6.3f}")
