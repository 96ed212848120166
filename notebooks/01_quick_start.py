# %% [markdown]
# # Quick start
#
# A committee of two teachers and a student eight times smaller, on the click log that ships with the project: 3,000
# impressions, about a minute. It shows the way, and proves nothing: the log is too small for a claim.

# %%
import os
from pathlib import Path

import pandas as pd

from recdistill import analysis
from recdistill.export import score

os.chdir(Path.cwd() if Path("notebooks").is_dir() else Path.cwd().parent)
runs = Path(os.environ.get("RECDISTILL_RUNS", "runs"))
pd.read_csv("data/sample/clicks.csv.gz").head(3).T

# %% [markdown]
# ## One job file says it all
# Which columns mean what, who teaches, how small the student is.

# %%
job = Path("pipelines/jobs/sample.yaml")
print(job.read_text())

# %% [markdown]
# ## Run it
# As `recdistill run pipelines/jobs/sample.yaml --out runs/quick-start`, with fewer methods, in one process. Run
# again, it does only what is missing or has changed.

# %%
run = analysis.run_job(job, runs / "quick-start", "distill.methods=[alone, mean, diverse]", "workers=1")
print(run.headline)
for warning in run.report["warnings"]:
    print("-", warning)

# %% [markdown]
# ## Every model on the test rows
# AUC: higher is better. NE (normalised entropy): lower is better. Intervals are over test rows and seeds.

# %%
analysis.readable(run.models()[["auc", "ne"]])

# %% [markdown]
# ## How much of the gap is recovered
# 0% is the student trained alone, 100% the foundation.

# %%
analysis.gap_bars(run)

# %% [markdown]
# ## Score new rows
# The student is a folder of its own. It reads raw logs, and needs no teacher.

# %%
score(run.folder / "student", [Path("data/sample/clicks.csv.gz")], runs / "quick-start-scores.parquet")
pd.read_parquet(runs / "quick-start-scores.parquet").head()
