# %% [markdown]
# # Bring your own teacher
#
# Any model can teach that can write down its answers: Parquet with `example_id`, `logit` and, if there is one,
# `embedding`. Here a scikit-learn model of our own joins the committee of the quick start.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from recdistill import analysis

os.chdir(Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent)
runs = Path(os.environ.get("RECDISTILL_RUNS", "runs"))
answers = runs / "own-teacher-answers.parquet"

# %% [markdown]
# ## The job
# That of the quick start, and one more member.

# %%
job, out = "pipelines/jobs/sample.yaml", runs / "own-teacher"
member = f"teachers.members.crosses={{kind: file, paths: {answers.resolve()}}}"
changes = [member, "distill.methods=[alone, mean, diverse]", "workers=1"]

# %% [markdown]
# ## Which rows may it learn from?
# Ingest splits the rows. The teacher learns from training rows alone, and says about each of them what a model says
# that has not seen it (out of fold): a teacher that remembers its rows would hand the student their labels.

# %%
log = pd.read_csv("data/sample/clicks.csv.gz").set_index("example_id")
train, validation, test = (log.loc[ids] for ids in analysis.split_ids(job, out, *changes).values())

# %% [markdown]
# ## The teacher
# A logistic regression on pairs of values. Validation rows must be answered too: logits are calibrated there.


# %%
def crosses(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["item", "device"]].assign(place=rows["domain"] + rows["category"], who=rows["user"])


model = make_pipeline(OneHotEncoder(handle_unknown="ignore", min_frequency=3), LogisticRegression(C=0.3))
out_of_fold = cross_val_predict(model, crosses(train), train["label"], cv=5, method="decision_function")
model.fit(crosses(train), train["label"])
later = pd.concat([validation, test])
said = np.concatenate([out_of_fold, model.decision_function(crosses(later))])
pd.DataFrame({"example_id": [*train.index, *later.index], "logit": said}).to_parquet(answers)

# %% [markdown]
# ## What it is worth

# %%
run = analysis.run_job(job, out, *changes)
print(run.headline)
table = analysis.readable(run.models()[["auc", "ne"]])
print(table.to_string())

# %%
analysis.importance_map(run)
