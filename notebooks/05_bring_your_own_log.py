# %% [markdown]
# # Bring your own click log
#
# From a file that nobody has described to a student: `recdistill init`, a look at what it wrote, `recdistill run`.

# %%
import os
from pathlib import Path

import numpy as np
import pandas as pd

from recdistill import analysis
from recdistill.cli_people import init

os.chdir(Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent)
runs = Path(os.environ.get("RECDISTILL_RUNS", "runs"))
folder = runs / "own-log-files"
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## A log
# Put your own file's path here. This one is made from the shipped sample: other names, and, as in many logs, a column
# that is known only afterwards.

# %%
sample = pd.read_csv("data/sample/clicks.csv.gz").drop(columns=["true_probability", "example_id"])
log = sample.rename(columns={"label": "clicked", "time": "shown_at", "user": "visitor_id", "item": "article_id"})
log["seconds_read"] = np.where(log["clicked"], np.random.default_rng(0).exponential(30, len(log)).round(1), 0.0)
path = folder / "impressions.csv"
log.to_csv(path, index=False)
log.head(3).T

# %% [markdown]
# ## Look at it
# `recdistill init LOG... --out JOB.yaml` reads a bounded sample, guesses, and says what it is unsure of.

# %%
job = folder / "mine.yaml"
job.unlink(missing_ok=True)
init([str(path)], job)

# %% [markdown]
# ## Read what it wrote, and change what it got wrong
# `seconds_read` gives the label away, and was left out.

# %%
print(job.read_text())

# %% [markdown]
# ## Run it
# With fewer methods and seeds, since this is a demonstration.

# %%
run = analysis.run_job(job, runs / "own-log", "distill.methods=[alone, mean]", "distill.seeds=[0, 1]", "workers=1")
print(run.headline)

# %%
analysis.readable(run.models()[["auc", "ne"]])
